"""The inner maximum of adversarial training: projected gradient ascent against every lane's own model at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsec.ball import Norm, project, steepest, uniform_in_ball
from fedsec.gradient import input_gradient
from fedsec.models.lanes import Lanes

_SALT = 71
"""Sets the draws of the start apart from those of other defenses in a step."""

Objective = Callable[[Tensor], Tensor]
"""``(l, b, *shape)`` inputs to what each example's ascent maximises, ``(l, b)``."""


@dataclass(frozen=True)
class Box:
    """The inputs that are allowed: within ``eps`` of an example, and within the bounds.

    Attributes:
        eps: radius of the ball, in units of the inputs.
        norm: of the ball.
        bounds: lowest and highest value of an input.
    """

    eps: float
    norm: Norm
    bounds: tuple[float, float]

    def into(self, perturbed: Tensor, x: Tensor) -> Tensor:
        """Each example ``(l, b, *shape)`` into the ball around its own and then into the bounds."""
        return (x + project(perturbed - x, self.eps, self.norm, lead=2)).clamp(*self.bounds)

    def up(self, perturbed: Tensor, x: Tensor, gradient: Tensor, length: float) -> Tensor:
        """One step of this length along the steepest direction of the norm, and back into the box."""
        with torch.no_grad():
            return self.into(perturbed + length * steepest(gradient, self.norm, lead=2), x)

    def uniform(self, lanes: Lanes, x: Tensor) -> Tensor:
        """A point drawn uniformly from the ball, then put into the bounds."""
        with torch.no_grad():
            unit = lanes.uniform(tuple(x.shape[1:]), salt=_SALT).to(x.dtype)
            radius = lanes.uniform((x.shape[1],), salt=_SALT + 1).to(x.dtype)
            return self.into(x + uniform_in_ball(unit, radius, self.eps, self.norm, lead=2), x)


@dataclass(frozen=True)
class InnerAttack:
    """Projected gradient ascent against every lane's own model at once.

    Attributes:
        box: where it stays.
        step: length of a step.
        steps: number of steps.
        random_start: start at a point drawn uniformly from the ball, else at the input.
        train: in train mode: with batch statistics and under the dropout mask of the local step.
    """

    box: Box
    step: float
    steps: int
    random_start: bool
    train: bool = False

    def scaled(self, share: float) -> InnerAttack:
        """The same with size and steps times ``share``."""
        if share == 1.0:
            return self
        return replace(self, box=replace(self.box, eps=share * self.box.eps), step=share * self.step)

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> Tensor:
        """Perturbed inputs, ``(l, b, *shape)`` like ``x``, that raise the loss; with gradients for inputs only."""
        start = self.box.uniform(lanes, x) if self.random_start else x.detach()
        return self.climb(start, x, lambda inputs: lanes.losses(inputs, y, train=self.train))

    def climb(self, start: Tensor, x: Tensor, objective: Objective) -> Tensor:
        """From ``start``, in the box around ``x``, up an objective.

        Lanes and examples do not mix, so the gradient of the sum of all is each example's own.
        """

        def doubled(leaf: Tensor) -> tuple[Tensor, Tensor]:
            values = objective(leaf)
            return values, values

        perturbed = start
        for _ in range(self.steps):
            gradient, _ = input_gradient(doubled, perturbed)
            perturbed = self.box.up(perturbed, x, gradient, self.step)
        return perturbed.detach()
