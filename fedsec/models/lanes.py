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
from fedsec.models.memory import LaneMemory, Place
from fedsec.randomness import counter_uniform, salted


class Lanes(ABC):
    """``l`` models of one architecture, at one local step.

    Attributes:
        model: the architecture.
        parameters: one tensor ``(l, *shape)`` per trainable slot, in layout order, requiring gradients.
        keys: ``(l,)`` int64, what every random draw of this step depends on.
        round: of the federation, counted from 0.
        step: which local step of this round, counted from 0.
        steps: how many local steps each lane takes in this round, ``l`` of them.
        expected: examples expected in a batch of each lane, where each example comes by a coin of its own; else 0.
        present: ``(l, b)`` bool, which examples of a batch are there, where lanes have batches of different sizes and
            shorter ones are filled up; ``None``: all.
        memory: what steps keep for later steps of the same round (`keep`, `recall`); new when a client starts.
        place: which lanes of the memory these are.
    """

    model: FlatModel
    parameters: tuple[Tensor, ...]
    keys: Tensor
    round: int = 0
    step: int = 0
    steps: tuple[int, ...] = ()
    expected: tuple[float, ...] = ()
    present: Tensor | None = None
    memory: LaneMemory
    place: Place

    @abstractmethod
    def outputs(self, x: Tensor, *, train: bool, shift: Tensor | None = None, at: str = "") -> Tensor:
        """``(l, b, *input_shape)`` to ``(l, b, *)`` outputs, differentiable in parameters, inputs and ``shift``.

        ``train=True`` uses batch statistics and dropout (and, once per step, moves running statistics);
        ``train=False`` does neither. Every pass of one step draws the same dropout masks.

        Args:
            x: inputs.
            train: the mode.
            shift: added to the output of layer ``at`` of every lane, of the shape of that output (`zero_shift`). The
                gradient with respect to a shift of zero is that of the layer's output.
            at: qualified name of a layer, which a pass must run exactly once; empty for the whole model.

        Raises:
            ConfigurationError: there is no such layer, or it does not run exactly once.
        """

    @abstractmethod
    def output_of(self, x: Tensor, at: str, *, train: bool) -> Tensor:
        """Output of the layer ``at`` alone, ``(l, b, *)``; what comes after it is not run, and no statistics move.

        Raises:
            ConfigurationError: there is no such layer, or it does not run.
        """

    def losses(self, x: Tensor, y: Tensor, *, train: bool, shift: Tensor | None = None, at: str = "") -> Tensor:
        """Loss per example, ``(l, b)``; arguments as for `outputs`."""
        return self.model.loss(self.outputs(x, train=train, shift=shift, at=at), y)

    def zero_shift(self, x: Tensor, at: str) -> Tensor:
        """Zeros shaped like the output of the layer ``at`` on ``x``, in the dtype of the parameters."""
        asked = (at, tuple(x.shape[1:]))
        if asked not in self.memory.shapes:
            with torch.no_grad():
                self.memory.shapes[asked] = tuple(self.output_of(x, at, train=False).shape[1:])
        return self.parameters[0].new_zeros(x.shape[0], *self.memory.shapes[asked])

    def recall(self, name: str, like: Tensor) -> Tensor:
        """What earlier steps kept under this name, a copy shaped ``like (l, b, *)``; rows never written are zero."""
        return self.memory.read(name, self.place, like)

    def keep(self, name: str, values: Tensor) -> None:
        """Keep ``values (l, b, *)`` until the client's round ends; rows beyond the first ``b`` stay as they were."""
        self.memory.write(name, self.place, values)

    def report(self, name: str, values: Tensor) -> None:
        """Say ``values (l,)`` about this round to whoever runs the training; the last report of a name counts."""
        self.memory.report(name, self.place, values)

    def uniform(self, shape: tuple[int, ...], *, salt: int) -> Tensor:
        """Uniform draws in [0, 1), ``(l, *shape)``; another ``salt`` gives independent draws."""
        return counter_uniform(salted(self.keys, 1000 + salt), shape)


Step = Callable[[Lanes, Tensor, Tensor], tuple[Tensor, ...]]
"""``(lanes, x (l, b, ...), y (l, b, ...)) -> gradients``, one ``(l, *shape)`` per trainable slot."""


def gradient_step(lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The gradient of the mean loss of each lane's batch."""
    loss = lanes.losses(x, y, train=True).mean(-1).sum()
    return torch.autograd.grad(loss, lanes.parameters)
