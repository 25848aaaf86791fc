"""Which linear layer reads the raw input and which one writes the outputs: found by probing, not by position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.models.flat import FlatModel, Slot
from fedsec.protocol.outcome import NotApplicable


@dataclass(frozen=True)
class LinearSlots:
    """Where one linear layer lies in the flat vector."""

    weight: Slot
    bias: Slot | None

    def read(self, vector: Tensor) -> tuple[Tensor, Tensor | None]:
        """Its part of a vector ``(d,)``: ``(out, in)`` and ``(out,)`` or ``None``."""
        weight = vector[self.weight.start : self.weight.stop].reshape(self.weight.shape)
        return weight, None if self.bias is None else vector[self.bias.start : self.bias.stop]


@dataclass(frozen=True)
class FirstLayer:
    """A linear layer that reads ``scale * x + shift`` of the flattened input ``x``.

    Attributes:
        slots: where it lies.
        scale: ``(in,)``, what the model's own normalisation multiplies by; nowhere 0.
        shift: ``(in,)``, what it adds.
    """

    slots: LinearSlots
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class _Call:
    layer: str
    inputs: Tensor
    outputs: Tensor


def _calls(model: FlatModel, vector: Tensor, x: Tensor, *, train: bool) -> tuple[list[_Call], Tensor]:
    """What every `nn.Linear` read and wrote in one forward pass, in the order of the calls."""
    module = model.instance(vector).train(train)
    calls: list[_Call] = []

    def listen(name: str, layer: nn.Module) -> None:
        layer.register_forward_hook(lambda _, args, out: calls.append(_Call(name, args[0].clone(), out.clone())))

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            listen(name, layer)
    with torch.no_grad():
        outputs = module(x)
    return calls, outputs


def _slots(model: FlatModel, layer: str) -> LinearSlots | None:
    prefix = f"{layer}." if layer else ""
    by_name = {slot.name: slot for slot in model.layout.parameters}
    weight = by_name.get(f"{prefix}weight")
    return None if weight is None else LinearSlots(weight, by_name.get(f"{prefix}bias"))


def first_layer(model: FlatModel, vector: Tensor, input_shape: tuple[int, ...]) -> FirstLayer:
    """The linear layer that reads the flattened raw input, up to a fixed normalisation of each value.

    Probed in train mode, as clients train: batch norm or dropout in front of the layer fails the probe.

    Args:
        model: the architecture.
        vector: ``(d,)`` its state.
        input_shape: of one example.

    Raises:
        NotApplicable: no linear layer reads the raw input.
    """
    why = "the model's first layer is not a linear layer on the flattened input"
    probe = torch.Generator(device="cpu").manual_seed(0)
    drawn = torch.rand((2, *input_shape), generator=probe, dtype=vector.dtype).to(vector.device)
    x = torch.cat([torch.zeros_like(drawn[:1]), torch.ones_like(drawn[:1]), drawn])
    calls, _ = _calls(model, vector, x, train=True)
    fewer, _ = _calls(model, vector, x[:3], train=True)
    flat = x.flatten(1)
    for call, check in zip(calls, fewer, strict=True):
        mixes = call.inputs.shape != flat.shape or not torch.allclose(call.inputs[:3], check.inputs, rtol=1e-4)
        if mixes:
            continue
        shift = call.inputs[0]
        scale = call.inputs[1] - shift
        size = float(call.inputs.abs().max())
        if not torch.allclose(call.inputs, scale * flat + shift, atol=1e-4 * size, rtol=1e-4):
            continue
        slots = _slots(model, call.layer)
        if slots is None or bool((scale.abs() <= 1e-6 * size).any()):
            continue
        return FirstLayer(slots, scale, shift)
    raise NotApplicable(why)


def head(model: FlatModel, vector: Tensor, input_shape: tuple[int, ...]) -> LinearSlots:
    """The linear layer whose outputs are the model's outputs.

    Raises:
        NotApplicable: the model does not end in a linear layer.
    """
    probe = torch.Generator(device="cpu").manual_seed(1)
    x = torch.rand((2, *input_shape), generator=probe, dtype=vector.dtype).to(vector.device)
    calls, outputs = _calls(model, vector, x, train=False)
    for call in reversed(calls):
        if call.outputs.shape == outputs.shape and torch.equal(call.outputs, outputs):
            slots = _slots(model, call.layer)
            if slots is not None:
                return slots
    raise NotApplicable("the model does not end in a linear layer, so labels cannot be read from its gradient")
