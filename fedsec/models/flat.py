"""A model is an architecture plus one flat vector, so that one round is one matrix."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.models.dropout import replace_dropout

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(outputs (..., b, *), y (..., b, *)) -> (..., b)`` loss per example."""


@dataclass(frozen=True)
class Slot:
    """Where one tensor of a model lies in the flat vector.

    Attributes:
        name: qualified name, as in ``features.0.weight``.
        shape: of the tensor.
        start: first coordinate.
        stop: one past the last coordinate.
        trainable: a parameter; ``False`` for a float buffer such as a batch-norm running mean.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    trainable: bool

    @property
    def layer(self) -> str:
        """The module that owns the tensor."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Layout:
    """Names, shapes and places of a model's tensors: parameters first, then float buffers."""

    slots: tuple[Slot, ...]

    @property
    def size(self) -> int:
        """Length ``d`` of the flat vector."""
        return self.slots[-1].stop if self.slots else 0

    @property
    def parameters(self) -> tuple[Slot, ...]:
        """The trainable slots."""
        return tuple(slot for slot in self.slots if slot.trainable)

    @property
    def buffers(self) -> tuple[Slot, ...]:
        """The slots of float buffers."""
        return tuple(slot for slot in self.slots if not slot.trainable)

    @property
    def trainable(self) -> int:
        """Number of trainable coordinates; they come first."""
        return sum(slot.stop - slot.start for slot in self.parameters)

    def layers(self) -> tuple[tuple[str, slice], ...]:
        """Name and coordinates of each layer (consecutive slots of one module)."""
        spans: list[tuple[str, slice]] = []
        for slot in self.slots:
            if spans and spans[-1][0] == slot.layer and spans[-1][1].stop == slot.start:
                spans[-1] = (slot.layer, slice(spans[-1][1].start, slot.stop))
            else:
                spans.append((slot.layer, slice(slot.start, slot.stop)))
        return tuple(spans)

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """Tensors by name, as views into ``(*lead, d)`` vectors: each ``(*lead, *shape)``."""
        lead = vectors.shape[:-1]
        return {s.name: vectors[..., s.start : s.stop].reshape(*lead, *s.shape) for s in self.slots}


@dataclass(frozen=True)
class FlatModel:
    """An architecture whose state travels as one flat vector of length ``d``.

    Attributes:
        module: the template; its own tensors are never trained.
        layout: where its tensors lie in the vector.
        loss: loss per example.
        task: ``classification``, ``regression`` or ``next-token``.
        name: the model's name in the registry.
    """

    module: nn.Module
    layout: Layout
    loss: Loss
    task: str
    name: str

    @classmethod
    def of(cls, module: nn.Module, *, task: str, name: str) -> FlatModel:
        """Wrap a module; its dropout layers are replaced by counter-based ones (`fedsec.models.dropout`).

        A module may say in ``training_loss`` how its outputs in train mode are scored; the same is asked in eval mode.
        """
        module = replace_dropout(copy.deepcopy(module))
        slots: list[Slot] = []
        start = 0
        for trainable, (tensor_name, tensor) in _float_tensors(module):
            stop = start + tensor.numel()
            slots.append(Slot(tensor_name, tuple(tensor.shape), start, stop, trainable))
            start = stop
        loss: Loss = getattr(module, "training_loss", None) or LOSSES[task]
        return cls(module, Layout(tuple(slots)), loss, task, name)

    def vector(self) -> Tensor:
        """The template's own state as a vector ``(d,)``."""
        return torch.cat([tensor.detach().reshape(-1) for _, (_, tensor) in _float_tensors(self.module)])

    def instance(self, vector: Tensor) -> nn.Module:
        """A module of its own with this state, in eval mode, on the vector's device."""
        module = copy.deepcopy(self.module).to(device=vector.device, dtype=vector.dtype)
        with torch.no_grad():
            for slot, (_, (_, tensor)) in zip(self.layout.slots, _float_tensors(module), strict=True):
                tensor.copy_(vector[slot.start : slot.stop].view(slot.shape))
        return module.eval()

    @property
    def has_batch_norm(self) -> bool:
        """Whether a layer mixes the examples of a batch."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.module.modules())


def _float_tensors(module: nn.Module) -> Iterator[tuple[bool, tuple[str, Tensor]]]:
    """Parameters, then float buffers that belong to the state."""
    for item in module.named_parameters():
        yield True, item
    kept = set(module.state_dict())
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and name in kept:
            yield False, (name, buffer)


def classification_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats per example; ``(..., b, C)`` and ``(..., b)`` to ``(..., b)``."""
    flat = nn.functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), y.reshape(-1), reduction="none")
    return flat.reshape(y.shape)


def regression_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Half squared error per example, whose gradient in a linear model is ``(w.x - y) x``."""
    return 0.5 * (outputs.reshape(y.shape) - y).square()


def next_token_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats over a sequence; ``(..., b, t, V)`` and ``(..., b, t)`` to ``(..., b)``."""
    return classification_loss(outputs, y).mean(-1)


LOSSES: dict[str, Loss] = {
    "classification": classification_loss,
    "regression": regression_loss,
    "next-token": next_token_loss,
}
