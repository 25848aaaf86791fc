"""Gradients of many dummy batches at once, differentiable in the batches, and how far they are from a target.

A lane is one (victim, restart). Lanes do not mix, so the gradient of the sum of their objectives is the gradient
of each, and one double backward pass serves all lanes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsec.models.flat import FlatModel

from .batchnorm import BatchNorm, Statistics, Watch, prepare
from .folded import SharedGradients, Unsupported

LANE_FLOATS = 1 << 22
"""Lanes run together as long as their parameters are fewer numbers than this: more do not fit a CPU's cache."""
ACCELERATOR_FLOATS = 1 << 26
"""The same on an accelerator (about 2 GB with the graph)."""

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
        self._groups = [] if watch else groups(model, states, public=batch_norm == "public")

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
        if self._groups:
            try:
                return self._of_groups(x, y), ()
            except Unsupported:  # only a run shows that a layer runs twice
                self._groups = []
        outputs, statistics = self.forward(x)
        loss = soft_loss(outputs, y).mean(-1).sum()
        gradients = torch.autograd.grad(loss, self._leaves, create_graph=True)
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1), statistics

    def _of_groups(self, x: Tensor, y: Tensor) -> Tensor:
        if len(self._groups) == 1:
            return _gradients(self._groups[0][1], x, y)
        parts = [_gradients(shared, x[rows], y[rows]) for rows, shared in self._groups]
        return torch.cat(parts)[torch.cat([rows for rows, _ in self._groups]).argsort()]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradients alone; see `predict`."""
        return self.predict(x, y)[0]


def groups(model: FlatModel, states: Tensor, *, public: bool) -> list[tuple[Tensor, SharedGradients]]:
    """Lanes with one state each, and their gradients the fast way; empty where there is none.

    On an accelerator a group pays only if it holds several lanes.
    """
    members: list[list[int]] = []
    for lane in range(len(states)):
        known = next((rows for rows in members if torch.equal(states[rows[0]], states[lane])), None)
        if known is None:
            members.append([lane])
        else:
            known.append(lane)
    if states.device.type != "cpu" and 2 * len(members) > len(states):
        return []
    try:
        shared = [SharedGradients(model, states[rows[0]], running=public) for rows in members]
    except Unsupported:
        return []
    return [(torch.tensor(rows, device=states.device), each) for rows, each in zip(members, shared, strict=True)]


def _gradients(shared: SharedGradients, x: Tensor, y: Tensor) -> Tensor:
    outputs = shared.outputs(x)
    return shared(outputs, soft_loss(outputs, y).mean(-1))


def soft_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Loss per example ``(l, b)``: cross-entropy in nats to distributions, half squared error to real targets."""
    if y.ndim == 3:
        return -(y * outputs.log_softmax(-1)).sum(-1)
    return 0.5 * (outputs.reshape(y.shape) - y).square()


def cosine_distance(gradients: Tensor, targets: Tensor) -> Tensor:
    """One global ``1 - cos`` over the concatenated gradient of each lane (Geiping et al. 2020, eq. 4)."""
    inner, squared = cast("tuple[Tensor, Tensor]", Products.apply(gradients, targets))  # type: ignore[no-untyped-call]
    lengths: Tensor = squared.clamp_min(1e-38).sqrt() * targets.norm(dim=1)
    return 1 - inner / lengths.clamp_min(1e-30)


class Products(torch.autograd.Function):
    """``<g, t>`` and ``<g, g>`` per lane, with a backward pass that touches the long vectors once."""

    @staticmethod
    def forward(ctx: Any, gradients: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """``(l, p)`` and ``(l, p)`` to ``(l,)`` and ``(l,)``."""
        ctx.save_for_backward(gradients, targets)
        row = gradients.unsqueeze(1)
        inner, squared = row @ targets.unsqueeze(2), row @ gradients.unsqueeze(2)
        return inner.view(-1), squared.view(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_inner: Tensor, to_squared: Tensor) -> tuple[Tensor, None]:
        """``(l,)`` and ``(l,)`` to ``(l, p)``; targets are constant."""
        gradients, targets = ctx.saved_tensors
        slope = gradients * (2 * to_squared).unsqueeze(1)
        return slope.addcmul_(targets, to_inner.unsqueeze(1)), None


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


def chunks(lanes: int, parameters: int, *, device: torch.device) -> Sequence[slice]:
    """Consecutive lanes whose parameters fit in `LANE_FLOATS`; at least one lane each."""
    most = LANE_FLOATS if device.type == "cpu" else ACCELERATOR_FLOATS
    size = max(1, most // max(1, parameters))
    return [slice(start, min(start + size, lanes)) for start in range(0, lanes, size)]
