"""Lanes: several clients' models side by side, and the step that trains them all at once.

Lanes do not mix, so the gradient of the sum of their losses is the gradient of each: ordinary autograd does
for a whole cohort what a loop over clients would do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fedsec.models.flat import FlatModel
from fedsec.randomness import counter_uniform, salted


class Lanes(ABC):
    """``l`` models of one architecture, at one local step.

    Attributes:
        model: the architecture.
        parameters: one tensor ``(l, *shape)`` per trainable slot, in layout order, requiring gradients.
        keys: ``(l,)`` int64, what every random draw of this step depends on.
    """

    model: FlatModel
    parameters: tuple[Tensor, ...]
    keys: Tensor

    @abstractmethod
    def outputs(self, x: Tensor, *, train: bool) -> Tensor:
        """``(l, b, *input_shape)`` to ``(l, b, *)`` outputs, differentiable in parameters and inputs.

        ``train=True`` uses batch statistics and dropout (and, once per step, moves running statistics);
        ``train=False`` does neither.
        """

    def losses(self, x: Tensor, y: Tensor, *, train: bool) -> Tensor:
        """Loss per example, ``(l, b)``."""
        return self.model.loss(self.outputs(x, train=train), y)

    def uniform(self, shape: tuple[int, ...], *, salt: int) -> Tensor:
        """Uniform draws in [0, 1), ``(l, *shape)``; another ``salt`` gives independent draws."""
        return counter_uniform(salted(self.keys, 1000 + salt), shape)


Step = Callable[[Lanes, Tensor, Tensor], tuple[Tensor, ...]]
"""``(lanes, x (l, b, ...), y (l, b, ...)) -> gradients``, one ``(l, *shape)`` per trainable slot."""


def gradient_step(lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The gradient of the mean loss of each lane's batch."""
    loss = lanes.losses(x, y, train=True).mean(-1).sum()
    return torch.autograd.grad(loss, lanes.parameters)
