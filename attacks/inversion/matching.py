"""Gradients of many dummy batches at once, differentiable in the batches, and how far they are from a target.

A lane is one (victim, restart). Lanes do not mix, so the gradient of the sum of their objectives is the gradient
of each, and one double backward pass serves all lanes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsec.models.flat import FlatModel

from .batchnorm import BatchNorm, Statistics, Watch, prepare

LANE_FLOATS = 1 << 24
"""Lanes run together as long as their parameters are fewer numbers than this (about 0.5 GB with the graph)."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""``(gradients (l, p), targets (l, p)) -> (l,)``."""


class LaneGradients:
    """The gradients of ``l`` models of one architecture, each at its own dummy batch.

    Layers behave as in the client's training, but dropout is off, because its mask is unknown; batch norm as
    `fedsec.attacks.inversion.batchnorm` says.

    Attributes:
        model: the architecture.
    """

    def __init__(
        self, model: FlatModel, states: Tensor, *, batch_norm: BatchNorm = "private", watch: bool = False
    ) -> None:
        """Set up.

        Args:
            model: the architecture.
            states: ``(l, d)`` one state per lane.
            batch_norm: whose statistics normalise a dummy batch.
            watch: whether `predict` gives the statistics of what the batch-norm layers read.
        """
        self.model = model
        self._module = copy.deepcopy(model.module).to(states.device).eval()
        prepare(self._module, batch_norm)
        self._watch = Watch(self._module) if watch else None
        kept = {name for name, _ in [*self._module.named_parameters(), *self._module.named_buffers()]}
        tensors = {name: tensor for name, tensor in model.layout.split(states).items() if name in kept}
        trainable = [slot.name for slot in model.layout.parameters]
        self._leaves = [tensors[name].detach().requires_grad_() for name in trainable]
        self._state = {**tensors, **dict(zip(trainable, self._leaves, strict=True))}

    def forward(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Statistics]:
        """Outputs ``(l, b, *)`` of ``(l, b, *input_shape)``, and what the batch-norm layers read, if watched.

        Args:
            x: a dummy batch per lane.
            parameters: trainable tensors ``(l, *shape)`` by name, in the place of the states' own.
        """
        state = self._state if parameters is None else {**self._state, **parameters}

        def one(tensors: dict[str, Tensor], batch: Tensor) -> tuple[Tensor, Statistics]:
            outputs = cast(Tensor, functional_call(self._module, tensors, (batch,)))
            return outputs, self._watch.take() if self._watch is not None else ()

        return torch.func.vmap(one)(state, x)

    def outputs(self, x: Tensor) -> Tensor:
        """``(l, b, *input_shape)`` to ``(l, b, *)``."""
        return self.forward(x)[0]

    def predict(self, x: Tensor, y: Tensor) -> tuple[Tensor, Statistics]:
        """The gradient of each lane's mean loss, ``(l, p)``, with a graph back to ``x`` and ``y``.

        Args:
            x: ``(l, b, *input_shape)``.
            y: ``(l, b, C)`` distributions over classes, or ``(l, b)`` targets of a regression.

        Returns:
            The gradients, and what the batch-norm layers read, if watched.
        """
        outputs, statistics = self.forward(x)
        loss = soft_loss(outputs, y).mean(-1).sum()
        gradients = torch.autograd.grad(loss, self._leaves, create_graph=True)
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1), statistics

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradients alone; see `predict`."""
        return self.predict(x, y)[0]


def soft_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Loss per example ``(l, b)``: cross-entropy in nats to distributions, half squared error to real targets."""
    if y.ndim == 3:
        return -(y * outputs.log_softmax(-1)).sum(-1)
    return 0.5 * (outputs.reshape(y.shape) - y).square()


def cosine_distance(gradients: Tensor, targets: Tensor) -> Tensor:
    """One global ``1 - cos`` over the concatenated gradient of each lane (Geiping et al. 2020, eq. 4)."""
    inner = (gradients * targets).sum(1)
    lengths: Tensor = gradients.norm(dim=1) * targets.norm(dim=1)
    return 1 - inner / lengths.clamp_min(1e-30)


def squared_distance(gradients: Tensor, targets: Tensor) -> Tensor:
    """Squared L2 distance over the target's squared norm (Zhu et al. 2019, eq. 4, times a constant of the lane)."""
    return (gradients - targets).square().sum(1) / targets.square().sum(1).clamp_min(1e-30)


def scale_free_distance(gradients: Tensor, targets: Tensor) -> Tensor:
    """Squared L2 distance after the best scaling of the dummy gradient, in closed form.

    ``min_s |s g - t|^2 / |t|^2 = 1 - cos^2``; continued to ``1 + cos^2`` for opposed gradients (a negative ``s``
    would undo the descent), so clipping by norm leaves the objective as it was.
    """
    cosine = 1 - cosine_distance(gradients, targets)
    return 1 - cosine * cosine.abs()


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """``(..., C)`` distributions for int64 labels ``(...)``."""
    return nn.functional.one_hot(labels, classes).to(like)


def chunks(lanes: int, parameters: int) -> Sequence[slice]:
    """Consecutive lanes whose parameters fit in `LANE_FLOATS`; at least one lane each."""
    size = max(1, LANE_FLOATS // max(1, parameters))
    return [slice(start, min(start + size, lanes)) for start in range(0, lanes, size)]
