"""Deep Leakage from Gradients (DLG) and its improvement (iDLG): L2 gradient matching."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
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
from .lbfgs import Objective, Problem, minimise_lanes
from .matching import Distance, LaneGradients, chunks, one_hot, scale_free_distance, squared_distance
from .observed import Observation, observe
from .victims import Victim, choose, is_gradient, layer_spans, surrogate_gradient


@dataclass(frozen=True)
class Matching:
    """How far the gradients of dummy batches are from the observed ones, lane by lane.

    The variables of a lane are one flat vector: ``size`` inputs and, where no labels are given, logits over classes
    for each of them (one real target each in a regression).

    Attributes:
        model: the architecture.
        states: ``(l, d)`` global models.
        targets: ``(l, p)`` gradients.
        labels: ``(l, b, C)`` distributions (iDLG), or ``None`` to optimise them too (DLG).
        size: inputs per lane ``b``.
        input_shape: of one input.
        observed: what clipping left of the targets.
        distance: between gradients.
    """

    model: FlatModel
    states: Tensor
    targets: Tensor
    labels: Tensor | None
    size: int
    input_shape: tuple[int, ...]
    observed: Observation
    distance: Distance

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs ``(k, b, *input_shape)`` and logits ``(k, b, C)`` of flat vectors.

        In place of logits: targets ``(k, b)`` in a regression, nothing ``(k, 0)`` where labels are given.
        """
        numbers = self.size * math.prod(self.input_shape)
        inputs = x[:, :numbers].reshape(len(x), self.size, *self.input_shape)
        rest = x[:, numbers:]
        soft = self.labels is None and self.model.task != "regression"
        return inputs, rest.reshape(len(x), self.size, -1) if soft else rest

    def __call__(self, lanes: Tensor) -> Objective:
        """The objective of some lanes, and its gradient."""
        gradients_at, observed = LaneGradients(self.model, self.states[lanes]), self.observed.of(lanes)
        visible = observed(self.targets[lanes])
        given = None if self.labels is None else self.labels[lanes]

        def objective(x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.detach().requires_grad_()
            inputs, free = self.split(x)
            y = given if given is not None else free if self.model.task == "regression" else free.softmax(-1)
            value = self.distance(observed(gradients_at(inputs, y)), visible)
            (slope,) = torch.autograd.grad(value.sum(), x)
            return value.detach(), slope

        return objective


def minimise_adam(problem: Problem, x: Tensor, *, evaluations: int, learning_rate: float) -> tuple[Tensor, Tensor]:
    """Adam on all lanes at once.

    Args:
        problem: the objective of given lanes.
        x: ``(l, n)`` where to start.
        evaluations: of the objective and its gradient.
        learning_rate: of Adam, in units of the variables.

    Returns:
        The best iterate of each lane, ``(l, n)``, and its objective, ``(l,)``; ``inf`` if it was nowhere finite.
    """
    objective = problem(torch.arange(len(x), device=x.device))
    leaf = x.detach().clone().requires_grad_()
    best, least = x.detach().clone(), torch.full(x.shape[:1], torch.inf).to(x)
    optimizer = torch.optim.Adam([leaf], lr=learning_rate)
    for _ in range(evaluations):
        value, slope = objective(leaf)
        better = value < least
        least, best = torch.where(better, value, least), torch.where(better.unsqueeze(1), leaf.detach(), best)
        leaf.grad = slope.nan_to_num()
        optimizer.step()
    return best, least


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
        Field(description="lbfgs: with a strong Wolfe line search; adam: fixed learning rate"),
    ] = "lbfgs"
    history: Annotated[int, Field(ge=1, description="Steps that L-BFGS remembers per starting point")] = 50
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
        x = start((len(states), size, *shape), self.init, unit, generator=generator).to(states).flatten(1)
        fixed = None if labels is None else one_hot(labels, classes, states).repeat_interleave(self.restarts, 0)
        if fixed is None:
            each = () if facts.model.task == "regression" else (classes,)
            logits = start((len(states), size, *each), "normal", (-2.0, 2.0), generator=generator).to(states)
            x = torch.cat([x, logits.flatten(1)], 1)
        spans, distance = layer_spans(facts.model), self.distance(victims, facts)
        matching = Matching(
            facts.model, states, targets, fixed, size, tuple(shape), observe(updates, targets, spans), distance
        )
        floats = states.shape[1] + 2 * self.history * x.shape[1]
        parts = [self.minimise(matching, x, lanes) for lanes in chunks(len(x), floats)]
        value = torch.cat([part[1] for part in parts]).view(many, self.restarts)
        winner = value.argmin(1) + self.restarts * torch.arange(many, device=value.device)
        inputs, claimed = matching.split(torch.cat([part[0] for part in parts])[winner])
        if labels is None:
            labels = claimed if facts.model.task == "regression" else claimed.argmax(-1)
        return inputs.clamp(*bounds), labels, -value.flatten()[winner]

    def minimise(self, matching: Matching, x: Tensor, lanes: slice) -> tuple[Tensor, Tensor]:
        """Run the chosen optimizer on some of the lanes."""
        chosen = torch.arange(len(x), device=x.device)[lanes]

        def problem(rows: Tensor) -> Objective:
            return matching(chosen[rows])

        if self.optimizer == "lbfgs":
            found = minimise_lanes(problem, x[lanes], evaluations=self.evaluations, history=self.history)
            return found.x, found.value
        return minimise_adam(problem, x[lanes], evaluations=self.evaluations, learning_rate=self.learning_rate)


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
