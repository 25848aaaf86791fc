"""Deep Leakage from Gradients (DLG) and its improvement (iDLG): L2 gradient matching."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.threat import Knowledge, Paper

from .base import Inversion, claimed_labels, start, threat_of
from .matching import Distance, LaneGradients, chunks, one_hot, scale_free_distance, squared_distance
from .observed import Observation, observe
from .victims import Victim, choose, is_gradient, layer_spans, surrogate_gradient

Objective = Callable[[Sequence[Tensor]], Tensor]
"""``variables, each (l, ...) -> (l,)``, differentiable."""


class _Best:
    """The best iterate of each lane so far; a lane whose objective is not finite keeps what it had."""

    def __init__(self, variables: Sequence[Tensor]) -> None:
        self.variables = [variable.detach().clone() for variable in variables]
        self.value = torch.full(variables[0].shape[:1], torch.inf).to(variables[0])

    def offer(self, variables: Sequence[Tensor], value: Tensor) -> None:
        better = value.detach() < self.value
        self.value = torch.where(better, value.detach(), self.value)
        for kept, variable in zip(self.variables, variables, strict=True):
            kept[better] = variable.detach()[better]


def minimise_lbfgs(
    objective: Objective, variables: Sequence[Tensor], *, evaluations: int
) -> tuple[list[Tensor], Tensor]:
    """L-BFGS with a strong Wolfe line search on one lane, as its search directions mix everything it is given.

    Args:
        objective: of one lane.
        variables: where to start, each ``(1, ...)``.
        evaluations: of the objective and its gradient at most, but for the end of a line search (up to 25 more).

    Returns:
        The best iterate and its objective, ``(1,)``.
    """
    leaves = [variable.detach().clone().requires_grad_() for variable in variables]
    best = _Best(leaves)
    optimizer = torch.optim.LBFGS(
        leaves,
        lr=1.0,
        max_iter=evaluations,
        max_eval=evaluations,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        history_size=100,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value = objective(leaves)
        for leaf, slope in zip(leaves, torch.autograd.grad(value.sum(), leaves), strict=True):
            leaf.grad = slope.nan_to_num().contiguous()
        best.offer(leaves, value)
        return value.sum().detach().nan_to_num(nan=torch.finfo(value.dtype).max)

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return best.variables, best.value


def minimise_adam(
    objective: Objective, variables: Sequence[Tensor], *, evaluations: int, learning_rate: float
) -> tuple[list[Tensor], Tensor]:
    """Adam on all lanes at once (lanes do not mix).

    Args:
        objective: of ``l`` lanes.
        variables: where to start, each ``(l, ...)``.
        evaluations: of the objective and its gradient.
        learning_rate: of Adam, in units of the variables.

    Returns:
        The best iterate of each lane and its objective, ``(l,)``.
    """
    leaves = [variable.detach().clone().requires_grad_() for variable in variables]
    best = _Best(leaves)
    optimizer = torch.optim.Adam(leaves, lr=learning_rate)
    for _ in range(evaluations):
        value = objective(leaves)
        for leaf, slope in zip(leaves, torch.autograd.grad(value.sum(), leaves), strict=True):
            leaf.grad = slope.nan_to_num().contiguous()
        best.offer(leaves, value)
        optimizer.step()
    return best.variables, best.value


def gradient_distance(
    model: FlatModel,
    states: Tensor,
    targets: Tensor,
    labels: Tensor | None,
    distance: Distance,
    observed: Observation | None = None,
) -> Objective:
    """The objective of DLG (labels are a second variable) or of iDLG (labels are given).

    Args:
        model: the architecture.
        states: ``(l, d)`` global models.
        targets: ``(l, p)`` gradients.
        labels: ``(l, b, C)`` distributions, or ``None`` to optimise logits (targets in a regression).
        distance: between gradients.
        observed: what clipping left of the targets; all if ``None``.
    """
    gradients_at = LaneGradients(model, states)
    seen = observed or (lambda gradients: gradients)
    visible = seen(targets)

    def objective(variables: Sequence[Tensor]) -> Tensor:
        y = labels
        if y is None:
            y = variables[1] if model.task == "regression" else variables[1].softmax(-1)
        return distance(seen(gradients_at(variables[0], y)), visible)

    return objective


@dataclass(frozen=True, kw_only=True)
class L2Matching(Inversion):
    """What DLG and iDLG share: the objective, the optimizers, restarts.

    Differs from the papers: a line search (their plain L-BFGS diverges on many starts), restarts judged by the
    gradient match, and a batch is optimised jointly, not one example after another. The update of several local steps
    is matched as one gradient (the cheap surrogate of `victims.surrogate_gradient`). Coordinates cut off by clipping
    are matched up to the cut, and layers clipped one by one are matched one by one (`observed`).
    """

    restarts: Annotated[int, Field(ge=1, description="Starting points per victim; the best gradient match wins")] = 4
    evaluations: Annotated[int, Field(ge=8, description="Double backward passes per starting point")] = 300
    optimizer: Annotated[
        Literal["lbfgs", "adam"],
        Field(description="lbfgs: strong Wolfe line search, lane after lane; adam: all lanes at once"),
    ] = "lbfgs"
    learning_rate: Annotated[float, Field(gt=0, description="Of adam, in units of the inputs")] = 0.1
    init: Annotated[
        Literal["normal", "uniform"], Field(description="Starting points: N(0, 1) as in the papers, or in the bounds")
    ] = "normal"
    matching: Annotated[
        Literal["auto", "l2", "scale-free"],
        Field(
            description="l2 needs the gradient's length; scale-free matches up to the best scalar, so clipping does"
            " not matter; auto: l2 only if the stack is empty and the update is one exact gradient"
        ),
    ] = "auto"

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Attack the view; raises `NotApplicable` for tokens and tasks that the attack cannot label."""
        self.check(facts)
        return self.collect(choose(view, facts, targets=self.targets), facts, generator=generator)

    @abstractmethod
    def check(self, facts: PublicFacts) -> None:
        """Raises `NotApplicable` where the attack has no meaning."""

    @abstractmethod
    def labels(
        self,
        victims: Sequence[Victim],
        gradients: Sequence[Tensor],
        size: int,
        facts: PublicFacts,
        *,
        generator: torch.Generator,
    ) -> Tensor | None:
        """Labels ``(v, size)`` fixed beforehand, or ``None`` to optimise them."""

    def distance(self, victims: Sequence[Victim], facts: PublicFacts) -> Distance:
        """The distance between gradients that fits what is known of the update's length."""
        exact = not facts.stack and all(is_gradient(victim, facts.local) for victim in victims)
        known = self.matching == "l2" or (self.matching == "auto" and exact)
        return squared_distance if known else scale_free_distance

    def attack(
        self, victims: tuple[Victim, ...], size: int, facts: PublicFacts, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct ``size`` inputs of each of some victims."""
        shape, classes, many = facts.info.input_shape, len(facts.info.classes), len(victims)
        gradients = [surrogate_gradient(victim, facts.local) for victim in victims]
        labels = self.labels(victims, gradients, size, facts, generator=generator)
        states = torch.stack([victim.model for victim in victims]).repeat_interleave(self.restarts, 0)
        targets = torch.stack(gradients).repeat_interleave(self.restarts, 0)
        updates = torch.stack([victim.update for victim in victims]).repeat_interleave(self.restarts, 0)
        bounds = facts.info.bounds or (0.0, 1.0)
        unit = (-2.0, 2.0) if self.init == "normal" else bounds
        variables = [start((len(states), size, *shape), self.init, unit, generator=generator).to(states)]
        fixed = None if labels is None else one_hot(labels, classes, states).repeat_interleave(self.restarts, 0)
        if fixed is None:
            each = () if facts.model.task == "regression" else (classes,)
            variables.append(start((len(states), size, *each), "normal", (-2.0, 2.0), generator=generator).to(states))
        distance = self.distance(victims, facts)
        one_by_one = [slice(lane, lane + 1) for lane in range(len(states))]
        lanes = one_by_one if self.optimizer == "lbfgs" else chunks(*states.shape)
        parts = []
        for lane in lanes:
            goal = gradient_distance(
                facts.model,
                states[lane],
                targets[lane],
                None if fixed is None else fixed[lane],
                distance,
                observe(updates[lane], targets[lane], layer_spans(facts.model)),
            )
            parts.append(self.minimise(goal, [variable[lane] for variable in variables]))
        value = torch.cat([part[1] for part in parts]).view(many, self.restarts)
        found = [torch.cat([part[0][index] for part in parts]) for index in range(len(variables))]
        found = [tensor.view(many, self.restarts, *tensor.shape[1:]) for tensor in found]
        winner, row = value.argmin(1), torch.arange(many, device=value.device)
        if labels is None:
            labels = found[1][row, winner] if facts.model.task == "regression" else found[1][row, winner].argmax(-1)
        return found[0][row, winner].clamp(*bounds), labels, -value[row, winner]

    def minimise(self, objective: Objective, variables: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Run the chosen optimizer."""
        if self.optimizer == "lbfgs":
            return minimise_lbfgs(objective, variables, evaluations=self.evaluations)
        return minimise_adam(objective, variables, evaluations=self.evaluations, learning_rate=self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class DeepLeakage(L2Matching):
    """Zhu, Liu, Han 2019: inputs and soft labels are optimised together."""

    name: ClassVar[str] = "dlg"
    summary: ClassVar[str] = "Reconstructs training inputs and labels by matching a gradient in L2 norm"
    paper: ClassVar[Paper | None] = Paper(
        title="Deep Leakage from Gradients",
        authors="Zhu, Liu, Han",
        venue="NeurIPS 2019",
        where="algorithm 1, eq. 4",
    )
    threat = threat_of(
        "A curious server optimises inputs and labels until they would have caused a client's update.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    cost: ClassVar[str] = "evaluations x restarts double backward passes per victim"

    def check(self, facts: PublicFacts) -> None:
        """Classes are optimised as soft labels, targets of a regression as real numbers."""
        if facts.model.task not in {"classification", "regression"}:
            raise NotApplicable("the inputs are tokens; this attack reconstructs real-valued inputs")

    def labels(
        self,
        victims: Sequence[Victim],
        gradients: Sequence[Tensor],
        size: int,
        facts: PublicFacts,
        *,
        generator: torch.Generator,
    ) -> Tensor | None:
        """None: labels are a variable."""
        return None


@dataclass(frozen=True, kw_only=True)
class ImprovedDeepLeakage(L2Matching):
    """Zhao, Mopuri, Bilen 2020: the label is read from the gradient's sign first; batches by label counts."""

    name: ClassVar[str] = "idlg"
    summary: ClassVar[str] = (
        "Reads labels from the sign of a gradient, then reconstructs inputs by matching it in L2 norm"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="iDLG: Improved Deep Leakage from Gradients",
        authors="Zhao, Mopuri, Bilen",
        venue="arXiv 2001.02610, 2020",
        where="section 3",
    )
    threat = threat_of(
        "A curious server reads the label from a client's update and optimises the input that fits it.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    cost: ClassVar[str] = "evaluations x restarts double backward passes per victim"

    def check(self, facts: PublicFacts) -> None:
        """The sign rule is about classes."""
        if facts.model.task != "classification":
            raise NotApplicable("labels are read from the gradient of a classifier; this task is not classification")

    def labels(
        self,
        victims: Sequence[Victim],
        gradients: Sequence[Tensor],
        size: int,
        facts: PublicFacts,
        *,
        generator: torch.Generator,
    ) -> Tensor | None:
        """The sign rule for one example, counts for a batch."""
        return claimed_labels(victims, gradients, size, facts, generator=generator)
