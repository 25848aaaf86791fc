"""One model as lanes of one: an ordinary module whose tensors are views into one flat vector."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from fedsec.models.dropout import CounterDropout
from fedsec.models.flat import FlatModel, Slot
from fedsec.models.lanes import Lanes
from fedsec.models.layers import run_until, shifting
from fedsec.models.memory import LaneMemory
from fedsec.narrow_convolution import replace_forward


class SingleLane(Lanes):
    """A working copy of the module, reused for client after client and step after step.

    Convolution kernels lie channels-last in ``state`` (a CPU convolves and pools so without reordering), so
    ``state`` is not in layout order: go through `load` and `subtract_into`.

    Attributes:
        state: ``(trainable,)`` the parameters; `parameters` are views into it.
        weights: the same views without gradients, for updates in place.
        statistics: ``(d - trainable,)`` the float buffers. Autograd counts writes to a storage, so they have their own.
        channels_last: whether kernels and images are laid out so.
    """

    def __init__(self, model: FlatModel, *, device: str | torch.device, dtype: torch.dtype) -> None:
        self.model = model
        module = copy.deepcopy(model.module).to(device=device, dtype=dtype)
        self.channels_last = any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in module.modules())
        layout = model.layout
        self.state = torch.zeros(layout.trainable, device=device, dtype=dtype)
        self.statistics = torch.zeros(layout.size - layout.trainable, device=device, dtype=dtype)
        weights = tuple(self._view(slot, self.state) for slot in layout.parameters)
        # `.data`, not `.detach()`: with a version counter of its own, a write to the state between steps does not make
        # autograd rebuild the views that the module holds (as copies by as_strided).
        self.parameters = tuple(weight.unsqueeze(0).data.requires_grad_() for weight in weights)
        self.weights = tuple(weight.unsqueeze(0) for weight in weights)
        buffers = tuple(
            self.statistics[slot.start - layout.trainable : slot.stop - layout.trainable].view(slot.shape)
            for slot in layout.buffers
        )
        self._views = weights + buffers
        self.keys = torch.zeros(1, dtype=torch.int64, device=device)
        self.memory, self.place = LaneMemory(1), slice(0, 1)
        self._attach(module)
        replace_forward(module)
        self._module = module.train()
        self._dropouts = tuple(part for part in module.modules() if isinstance(part, CounterDropout))
        self._counters = tuple(
            (mine, template.clone().to(device))
            for mine, template in zip(module.buffers(), model.module.buffers(), strict=True)
            if not mine.is_floating_point()
        )
        self._moved = False

    @property
    def module(self) -> nn.Module:
        """The working copy, whose tensors are views into ``state`` and ``statistics``."""
        return self._module

    def load(self, vector: Tensor) -> None:
        """Become the model ``vector (d,)``, in layout order."""
        with torch.no_grad():
            if self.channels_last:
                for slot, view in zip(self.model.layout.slots, self._views, strict=True):
                    view.copy_(vector[slot.start : slot.stop].view(slot.shape))
            else:
                self.state.copy_(vector[: self.state.shape[0]])
                self.statistics.copy_(vector[self.state.shape[0] :])
            for counter, template in self._counters:
                counter.copy_(template)

    def subtract_into(self, out: Tensor, start: Tensor) -> None:
        """Write this model minus ``start`` to ``out``; both ``(d,)`` in layout order."""
        with torch.no_grad():
            if not self.channels_last:
                cut = self.state.shape[0]
                torch.sub(self.state, start[:cut], out=out[:cut])
                torch.sub(self.statistics, start[cut:], out=out[cut:])
                return
            for slot, view in zip(self.model.layout.slots, self._views, strict=True):
                place = slice(slot.start, slot.stop)
                torch.sub(view, start[place].view(slot.shape), out=out[place].view(slot.shape))

    def arranged(self, vector: Tensor) -> Tensor:
        """The parameters of ``vector (d,)`` in the order of ``state``."""
        placed = torch.empty_like(self.state)
        for slot in self.model.layout.parameters:
            self._view(slot, placed).copy_(vector[slot.start : slot.stop].view(slot.shape))
        return placed

    def gather(self, gradients: tuple[Tensor, ...], into: Tensor) -> Tensor:
        """Gradients ``(1, *shape)`` as one vector in the order of ``state``, written to ``into``."""
        views = [self._view(slot, into).unsqueeze(0) for slot in self.model.layout.parameters]
        torch._foreach_copy_(views, [gradient.detach() for gradient in gradients])
        return into

    def begin_step(self, keys: Tensor) -> None:
        """Start a local step with these keys ``(1,)``: running statistics move once more."""
        self.keys = keys
        self._moved = False
        for layer in self._dropouts:
            layer.key = keys[0]

    def outputs(self, x: Tensor, *, train: bool, shift: Tensor | None = None, at: str = "") -> Tensor:
        """See `Lanes.outputs`; ``l`` is 1."""
        batch = self._entered(x, train=train)
        if train and self._moved:
            with self._unmoved():
                return self._called(batch, shift, at)
        self._moved = self._moved or train
        return self._called(batch, shift, at)

    def output_of(self, x: Tensor, at: str, *, train: bool) -> Tensor:
        """See `Lanes.output_of`."""
        batch = self._entered(x, train=train)
        with self._unmoved() if train else nullcontext():
            return run_until(self._module, at, lambda: self._module(batch)).unsqueeze(0)

    def _entered(self, x: Tensor, *, train: bool) -> Tensor:
        """The batch as the module takes it; puts the module in this mode."""
        if self._module.training is not train:
            self._module.train(train)
        batch = x.squeeze(0)
        if self.channels_last and batch.dim() == 4:
            return batch.contiguous(memory_format=torch.channels_last)
        return batch

    def _called(self, batch: Tensor, shift: Tensor | None, at: str) -> Tensor:
        with nullcontext() if shift is None else shifting(self._module, at, shift.squeeze(0)):
            outputs: Tensor = self._module(batch)
        return outputs.unsqueeze(0)

    def _view(self, slot: Slot, vector: Tensor) -> Tensor:
        part = vector[slot.start : slot.stop]
        if self.channels_last and len(slot.shape) == 4:
            o, i, h, w = slot.shape
            return part.view(o, h, w, i).permute(0, 3, 1, 2)
        return part.view(slot.shape)

    def _attach(self, module: nn.Module) -> None:
        """Put the views in the place of the module's own tensors, tied ones everywhere they stand."""
        floating: dict[int, Tensor] = {}
        names = dict(module.named_parameters()) | dict(module.named_buffers())
        for index, slot in enumerate(self.model.layout.slots):
            view = self.parameters[index].squeeze(0) if slot.trainable else self._views[index]
            floating[id(names[slot.name])] = view
        for part in module.modules():
            for name, tensor in list(part._parameters.items()):
                if tensor is not None and id(tensor) in floating:
                    del part._parameters[name]
                    setattr(part, name, floating[id(tensor)])
            for name, buffer in list(part._buffers.items()):
                if buffer is not None and id(buffer) in floating:
                    part._buffers[name] = floating[id(buffer)]

    @contextmanager
    def _unmoved(self) -> Iterator[None]:
        """Let a further pass of the same step move copies of the running statistics."""
        kept = [
            (part, name, buffer)
            for part in self._module.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None and name != "key"
        ]
        try:
            for part, name, buffer in kept:
                part._buffers[name] = buffer.clone()
            yield
        finally:
            for part, name, buffer in kept:
                part._buffers[name] = buffer
