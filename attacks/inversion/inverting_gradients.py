"""Inverting Gradients: cosine matching with signed Adam, all victims and restarts as one batch."""

from __future__ import annotations

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
from .matching import LaneGradients, chunks, cosine_distance, one_hot
from .observed import Observation, observe
from .victims import Victim, choose, layer_spans, surrogate_gradient

DECAYS = (3 / 8, 5 / 8, 7 / 8)
"""Shares of the iterations after which the learning rate is divided by ten."""


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along height plus that along width; ``(l, b, c, h, w)`` to ``(l,)``."""
    down = (x[..., 1:, :] - x[..., :-1, :]).abs().flatten(1).mean(1)
    across = (x[..., :, 1:] - x[..., :, :-1]).abs().flatten(1).mean(1)
    return down + across


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether inputs have two directions in which neighbours mean something."""
    return len(shape) == 3 and shape[1] > 1 and shape[2] > 1


def invert(
    model: FlatModel,
    states: Tensor,
    targets: Tensor,
    labels: Tensor,
    x: Tensor,
    *,
    observed: Observation | None = None,
    bounds: tuple[float, float],
    iterations: int,
    learning_rate: float,
    tv: float,
) -> tuple[Tensor, Tensor]:
    """Reconstruct a batch per lane (Geiping et al. 2020, eq. 4 and appendix A).

    Adam on the sign of the gradient of ``1 - cos + tv * TV``, learning rate divided by ten at `DECAYS`, projection
    on the box after each step, the iterate with the best gradient match kept.

    Args:
        model: the architecture.
        states: ``(l, d)`` global models.
        targets: ``(l, p)`` gradients, up to a positive factor.
        labels: ``(l, b, C)`` distributions over classes.
        x: ``(l, b, *input_shape)`` where to start.
        observed: what clipping left of the targets; all if ``None``.
        bounds: lowest and highest value of an input.
        iterations: double backward passes per lane.
        learning_rate: of Adam, as a share of the width of the bounds.
        tv: weight of total variation; for images only.

    Returns:
        Inputs ``(l, b, *input_shape)`` and the cosine of their gradients to the targets, ``(l,)``.
    """
    low, high = bounds
    seen = observed or (lambda gradients: gradients)
    targets = seen(targets)
    gradients_at = LaneGradients(model, states)
    smooth = is_image(tuple(x.shape[2:])) and tv > 0
    x = x.clamp(low, high)
    best, best_distance = x.clone(), torch.full((x.shape[0],), torch.inf, device=x.device, dtype=x.dtype)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    rate = learning_rate * (high - low)
    decays = {int(share * iterations) for share in DECAYS}
    lead = (-1, *(1 for _ in x.shape[1:]))
    for iteration in range(iterations):
        x.requires_grad_()
        distance = cosine_distance(seen(gradients_at(x, labels)), targets)
        objective = distance + tv * total_variation(x) if smooth else distance
        (slope,) = torch.autograd.grad(objective.sum(), x)
        with torch.no_grad():
            x = x.detach()
            better = distance < best_distance
            best = torch.where(better.view(lead), x, best)
            best_distance = torch.where(better, distance, best_distance)
            if iteration in decays:
                rate *= 0.1
            step = slope.sign().nan_to_num()
            first = 0.9 * first + 0.1 * step
            second = 0.999 * second + 0.001 * step.square()
            unbiased = first / (1 - 0.9 ** (iteration + 1))
            scale = (second / (1 - 0.999 ** (iteration + 1))).sqrt() + 1e-8
            x = (x - rate * unbiased / scale).clamp(low, high)
    return best, 1 - best_distance


@dataclass(frozen=True, kw_only=True)
class InvertingGradients(Inversion):
    """Geiping et al. 2020. Scale-free, so clipping by norm alone is no defense.

    Coordinates cut off by clipping by value are matched up to the cut, and layers clipped one by one are matched one by
    one (`observed`).

    Labels come from the gradient (`fedsec.attacks.inversion.labels`), never from the truth. Victims with equally
    many images to reconstruct run as one batch. With several local steps the update is matched as one gradient
    (the cheap surrogate of `victims.surrogate_gradient`).
    """

    name: ClassVar[str] = "inverting-gradients"
    summary: ClassVar[str] = "Reconstructs training inputs by matching the direction of a gradient with signed Adam"
    paper: ClassVar[Paper | None] = Paper(
        title="Inverting Gradients - How easy is it to break privacy in federated learning?",
        authors="Geiping, Bauermeister, Dröge, Moeller",
        venue="NeurIPS 2020",
        where="section 4, eq. 4; appendix A",
    )
    threat = threat_of(
        "A curious server optimises images until their gradient points where a client's update points.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    cost: ClassVar[str] = "iterations x restarts double backward passes per victim, batched over victims"

    restarts: Annotated[int, Field(ge=1, description="Starting points per victim; the best gradient match wins")] = 2
    iterations: Annotated[int, Field(ge=8, description="Double backward passes per starting point")] = 300
    learning_rate: Annotated[float, Field(gt=0, description="Of Adam, as a share of the width of the inputs")] = 0.1
    tv: Annotated[float, Field(ge=0, description="Weight of total variation; images only")] = 1e-3
    init: Annotated[Literal["normal", "uniform"], Field(description="Starting points, scaled to the bounds")] = "normal"

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Attack the view; raises `NotApplicable` for tokens, regressions and models without a linear head."""
        if facts.model.task != "classification":
            raise NotApplicable("labels are read from the gradient of a classifier; this task is not classification")
        victims = choose(view, facts, targets=self.targets)
        return self.collect(victims, facts, generator=generator)

    def attack(
        self, victims: tuple[Victim, ...], size: int, facts: PublicFacts, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct ``size`` images of each of some victims."""
        shape, classes = facts.info.input_shape, len(facts.info.classes)
        gradients = [surrogate_gradient(victim, facts.local) for victim in victims]
        labels = claimed_labels(victims, gradients, size, facts, generator=generator)
        states = torch.stack([victim.model for victim in victims]).repeat_interleave(self.restarts, 0)
        targets = torch.stack(gradients).repeat_interleave(self.restarts, 0)
        updates = torch.stack([victim.update for victim in victims]).repeat_interleave(self.restarts, 0)
        bounds = facts.info.bounds or (0.0, 1.0)
        x = start((len(states), size, *shape), self.init, bounds, generator=generator).to(states)
        soft = one_hot(labels, classes, states).repeat_interleave(self.restarts, 0)
        parts = [
            invert(
                facts.model,
                states[lanes],
                targets[lanes],
                soft[lanes],
                x[lanes],
                observed=observe(updates[lanes], targets[lanes], layer_spans(facts.model)),
                bounds=bounds,
                iterations=self.iterations,
                learning_rate=self.learning_rate,
                tv=self.tv,
            )
            for lanes in chunks(len(states), states.shape[1])
        ]
        inputs, match = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        match = match.view(len(victims), self.restarts)
        winner = match.argmax(1)
        row = torch.arange(len(victims), device=match.device)
        return inputs.view(len(victims), self.restarts, size, *shape)[row, winner], labels, match[row, winner]
