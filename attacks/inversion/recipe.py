"""An attack by gradient matching as data: what is matched, by which optimizer, with which priors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .batchnorm import BatchNorm
from .matching import Distance, cosine_distance, scale_free_distance, squared_distance

Optimizer = Literal["lbfgs", "adam", "signed-adam"]
Labels = Literal["gradient", "optimised", "oracle"]
LocalSteps = Literal["surrogate", "unrolled", "oracle-order"]
Schedule = Literal["constant", "steps", "cosine"]

DISTANCES: dict[str, Distance] = {
    "l2": squared_distance,
    "cosine": cosine_distance,
    "scale-free": scale_free_distance,
}
DECAYS = (3 / 8, 5 / 8, 7 / 8)
"""Shares of the budget after which the schedule ``steps`` divides the learning rate by ten."""
WARM_UP = 1 / 40
"""Share of the budget over which the schedule ``cosine`` rises."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One attack of the engine.

    Attributes:
        distance: between gradients, one of `DISTANCES`.
        optimizer: ``lbfgs`` with a line search; ``adam``; ``signed-adam``: on the sign of the gradient.
        evaluations: of the objective and its gradient per starting point, at most.
        restarts: starting points per victim.
        halving: shares of ``evaluations`` after which the worse half of each victim's remaining starting points is
            dropped, by gradient match alone.
        learning_rate: of both Adams, as a share of the width of the bounds.
        schedule: of the learning rate: ``constant``, ``steps`` (see `DECAYS`) or ``cosine`` after a warm-up.
        history: pairs that L-BFGS keeps.
        init: starting points: ``normal`` is N(0, 1) in ``unit``, ``uniform`` in the bounds.
        unit: the interval that two deviations of ``normal`` span; the bounds if ``None``.
        box: whether each step of Adam ends in the bounds. In raw units; normalisation inside a model is monotone
            in each value, so this is the box of normalised space.
        langevin: deviation of the noise that is added to each step of Adam, as a share of the learning rate.
        labels: read from the ``gradient``, ``optimised`` together with the inputs, or an ``oracle`` (the true ones).
        local_steps: ``surrogate`` (all steps as one gradient), ``unrolled`` in an unknown order, or ``oracle-order``.
        batch_norm: whose statistics normalise dummy batches, see `fedsec.attacks.inversion.batchnorm`.
        tv: weight of total variation (images only).
        l2: weight of the inputs' energy.
        statistics: weight of the distance to batch-norm statistics (``shared`` or ``public``).
        group: weight of the distance to the consensus of the victim's starting points.
        group_every: evaluations between two consensuses.
        group_shift: pixels that registration may move an image by.
        epochs: weight of the differences between epochs where the order is unknown.
        noise_tv: weight of total variation per unit of ``noise / (1 - noise)``, the ratio of the power of public noise
            to that of the signal in an update.
    """

    distance: str = "cosine"
    optimizer: Optimizer = "signed-adam"
    evaluations: int = 300
    restarts: int = 2
    halving: tuple[float, ...] = ()
    learning_rate: float = 0.1
    schedule: Schedule = "steps"
    history: int = 50
    init: str = "normal"
    unit: tuple[float, float] | None = None
    box: bool = True
    langevin: float = 0.0
    labels: Labels = "gradient"
    local_steps: LocalSteps = "surrogate"
    batch_norm: BatchNorm = "private"
    tv: float = 0.0
    l2: float = 0.0
    statistics: float = 0.0
    group: float = 0.0
    group_every: int = 50
    group_shift: int = 2
    epochs: float = 1.0
    noise_tv: float = 0.0

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ValueError(f"no distance {self.distance!r}; there are {', '.join(DISTANCES)}")
        if any(not 0 < share < 1 for share in self.halving):
            raise ValueError(f"halving {self.halving} is not made of shares in (0, 1)")
        if self.optimizer == "lbfgs" and self.group:
            raise ValueError("group consistency moves the objective, which the line search of lbfgs cannot follow")

    def rate(self) -> Callable[[int], float]:
        """The learning rate at each evaluation, counted from 0, in units of `learning_rate`."""
        total = self.evaluations
        if self.schedule == "constant":
            return lambda _: 1.0
        if self.schedule == "steps":
            decays = [int(share * total) for share in DECAYS]
            return lambda now: 0.1 ** sum(now >= decay for decay in decays)
        warm = max(1, int(WARM_UP * total))
        return lambda now: min(1.0, (now + 1) / warm) * 0.5 * (1 + math.cos(math.pi * now / total))

    def cuts(self) -> frozenset[int]:
        """Evaluations after which starting points are halved."""
        return frozenset(max(1, int(share * self.evaluations)) for share in self.halving)
