"""The objective of gradient matching on many lanes at once, and its one hot function, `evaluate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsec.models.flat import FlatModel

from .batchnorm import BatchNorm, Statistics, statistics_distance
from .matching import Distance, LaneGradients, soft_loss
from .observed import Observation
from .regularisers import energy, is_image, total_variation
from .unrolled import Simulation, epochs_differ, unrolled_gradient


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Weights of what is added to the gradient match; see `Recipe`. ``tv`` is per lane, ``(l,)``.

    Attributes:
        tv: of total variation.
        l2: of the inputs' energy.
        statistics: of the distance to `wanted`.
        group: of the distance to `anchor`.
        epochs: of the differences between epochs.
        bounds: lowest and highest value of an input.
        wanted: batch-norm statistics ``(l, c)`` per layer that batches are drawn to.
        anchor: ``(l, b, *input_shape)`` what the victim's starting points agree on; ``None`` before they do.
        count: epochs that the inputs of a lane are made of.
    """

    tv: Tensor
    bounds: tuple[float, float]
    l2: float = 0.0
    statistics: float = 0.0
    group: float = 0.0
    epochs: float = 0.0
    wanted: Statistics = ()
    anchor: Tensor | None = None
    count: int = 1

    def of(self, lanes: Tensor) -> Prior:
        """The prior of some lanes."""
        wanted = tuple((mean[lanes], var[lanes]) for mean, var in self.wanted)
        anchor = None if self.anchor is None else self.anchor[lanes]
        return replace(self, tv=self.tv[lanes], wanted=wanted, anchor=anchor)

    def __call__(self, x: Tensor, statistics: Statistics) -> Tensor | float:
        """Of inputs ``(k, b, *input_shape)``, ``(k,)`` or 0."""
        total: Tensor | float = 0.0
        if is_image(tuple(x.shape[2:])) and bool((self.tv > 0).any()):
            total = total + self.tv * total_variation(x)
        if self.l2:
            total = total + self.l2 * energy(x, self.bounds)
        if self.statistics and self.wanted:
            total = total + self.statistics * statistics_distance(statistics, self.wanted)
        if self.group and self.anchor is not None:
            total = total + self.group * (x - self.anchor).square().flatten(1).mean(1)
        if self.epochs and self.count > 1:
            total = total + self.epochs * epochs_differ(x, self.count)
        return total


@dataclass(frozen=True, kw_only=True)
class Matching:
    """What ``l`` lanes are to match. The variables of a lane are one flat vector: its inputs, then its free labels.

    Attributes:
        model: the architecture.
        states: ``(l, o, d)`` global models, one for each of ``o`` rounds in which the same batch was used.
        targets: ``(l, o * p)`` gradients.
        labels: ``(l, b, C)`` distributions, or ``None`` to optimise them too.
        size: inputs per lane ``b``.
        input_shape: of one input.
        observed: what the defenses left of the targets.
        distance: between gradients.
        prior: what is added.
        batch_norm: whose statistics normalise dummy batches.
        simulation: the local steps to unroll; ``None`` matches one gradient.
    """

    model: FlatModel
    states: Tensor
    targets: Tensor
    labels: Tensor | None
    size: int
    input_shape: tuple[int, ...]
    observed: Observation
    distance: Distance
    prior: Prior
    batch_norm: BatchNorm = "private"
    simulation: Simulation | None = None

    @property
    def numbers(self) -> int:
        """Variables of a lane that are inputs; they come first."""
        return self.size * math.prod(self.input_shape)

    @property
    def cost(self) -> int:
        """Gradients of the model's loss that one evaluation of a lane differentiates through."""
        return self.states.shape[1] * (1 if self.simulation is None else len(self.simulation.rows))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs ``(k, b, *input_shape)`` and logits ``(k, b, C)`` of flat vectors.

        In place of logits: targets ``(k, b)`` in a regression, nothing ``(k, 0)`` where labels are given.
        """
        inputs = x[:, : self.numbers].reshape(len(x), self.size, *self.input_shape)
        rest = x[:, self.numbers :]
        soft = self.labels is None and self.model.task != "regression"
        return inputs, rest.reshape(len(x), self.size, -1) if soft else rest

    def of(self, lanes: Tensor) -> Prepared:
        """The objective of some lanes ``(k,)`` int64, ready to be evaluated."""
        observed = self.observed.of(lanes)
        states = self.states[lanes].flatten(0, 1)
        watch = bool(self.prior.statistics and self.prior.wanted)
        return Prepared(
            matching=self,
            gradients=LaneGradients(self.model, states, batch_norm=self.batch_norm, watch=watch),
            start=states[:, : self.model.layout.trainable],
            observed=observed,
            visible=observed(self.targets[lanes]),
            labels=None if self.labels is None else self.labels[lanes],
            prior=self.prior.of(lanes),
            simulation=None if self.simulation is None else self.simulation.of(lanes),
        )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The objective of ``k`` lanes with everything at hand that does not change from one evaluation to the next."""

    matching: Matching
    gradients: LaneGradients
    start: Tensor
    observed: Observation
    visible: Tensor
    labels: Tensor | None
    prior: Prior
    simulation: Simulation | None

    def predict(self, x: Tensor, y: Tensor) -> tuple[Tensor, Statistics]:
        """What clients with these batches would have been seen to send, as gradients ``(k, o * p)``."""
        rounds = self.matching.states.shape[1]
        if rounds > 1:
            x, y = x.repeat_interleave(rounds, 0), y.repeat_interleave(rounds, 0)
        if self.simulation is None:
            gradients, statistics = self.gradients.predict(x, y)
        else:
            layout = self.matching.model.layout
            gradients, statistics = unrolled_gradient(self.loss_of, layout, self.start, self.simulation, x, y)
        # Statistics are known of the first round at most.
        first = tuple((mean[::rounds], var[::rounds]) for mean, var in statistics)
        return gradients.reshape(-1, rounds * gradients.shape[1]), first

    def loss_of(self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Statistics]:
        """See `fedsec.attacks.inversion.unrolled.LossOf`."""
        outputs, statistics = self.gradients.forward(x, parameters)
        return soft_loss(outputs, y).mean(-1), statistics


def evaluate(lanes: Prepared, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One evaluation of the objective and its gradient on ``k`` lanes: where all the time goes.

    Args:
        lanes: what they are to match.
        x: ``(k, n)`` variables.

    Returns:
        The objective ``(k,)``, the gradient match alone ``(k,)``, and the objective's gradient ``(k, n)``; detached.
    """
    x = x.detach().requires_grad_()
    inputs, free = lanes.matching.split(x)
    if lanes.labels is not None:
        y = lanes.labels
    else:
        y = free if lanes.matching.model.task == "regression" else free.softmax(-1)
    seen, statistics = lanes.predict(inputs, y)
    match = lanes.matching.distance(lanes.observed(seen), lanes.visible)
    value = match + lanes.prior(inputs, statistics)
    (slope,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), match.detach(), slope


Evaluate = Callable[[Prepared, Tensor], tuple[Tensor, Tensor, Tensor]]
"""The signature of `evaluate`."""
