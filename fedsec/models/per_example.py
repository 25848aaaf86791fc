"""Gradients of single examples, clipped and summed, for every lane at once; most of them never exist as tensors.

The gradient of a linear layer for one example is the outer product of two vectors, whose norm is the product of their
norms (Goodfellow 2015), and a weighted sum of outer products is one matrix product. Convolutions and normalisations
are written out from a layer's input and the gradient of its output. What is not written out here goes through
``torch.func.vmap``, and what that cannot batch through a loop over examples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsec.models.dense_plan import Apply, Drop, Flatten, Linear
from fedsec.models.dropout import CounterDropout
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import Lanes
from fedsec.models.layer_gradients import WRITTEN_OUT, LayerGradient, Outer, Whole, layer_gradients
from fedsec.models.single import SingleLane
from fedsec.models.stacked import DenseLanes, why_not_stackable

_VALUES = 1 << 26
"""Numbers that the gradients of the examples of one call may take together."""


def per_example_gradients(lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The gradient of each example's own loss.

    Args:
        lanes: models without layers that mix examples (batch norm), in train mode: dropout is on.
        x: ``(l, b, *input_shape)``.
        y: ``(l, b, *)``.

    Returns:
        ``(l, b, *shape)`` per trainable slot, in layout order.
    """
    found = _gradients(lanes, x, y)
    return tuple(found[place].whole() for place in range(len(lanes.parameters)))


def clipped_sums(
    lanes: Lanes, x: Tensor, y: Tensor, *, bound: float, present: Tensor | None = None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Gradients of single examples, each scaled down to an L2 norm of at most ``bound`` over all layers, and summed.

    Args:
        lanes: see `per_example_gradients`.
        x: ``(l, b, *input_shape)``; ``b`` may be 0.
        y: ``(l, b, *)``.
        bound: largest norm of one example's gradient, over all parameters jointly.
        present: ``(l, b)`` bool, which examples count; ``None``: all.

    Returns:
        Sums ``(l, *shape)`` per trainable slot, in layout order, and the norms before clipping, ``(l, b)``.
    """
    count = x.shape[1]
    totals = [torch.zeros_like(parameter, requires_grad=False) for parameter in lanes.parameters]
    norms = [x.new_zeros(x.shape[0], 0, dtype=totals[0].dtype)]
    for part in _chunks(lanes, count):
        found = _gradients(lanes, x[:, part], y[:, part])
        squares = torch.stack([gradient.squares() for gradient in found.values()]).sum(0)
        norm = squares.sqrt()
        factors = bound / norm.clamp_min(bound)
        if present is not None:
            factors = factors * present[:, part]
        for place, gradient in found.items():
            totals[place] += gradient.total(factors)
        norms.append(norm)
    return tuple(totals), torch.cat(norms, dim=1)


def _chunks(lanes: Lanes, count: int) -> list[slice]:
    """The examples in runs small enough for memory; dense models never hold an example's gradient."""
    if isinstance(lanes, DenseLanes):
        return [slice(0, count)] if count else []
    size = max(1, _VALUES // max(1, lanes.model.layout.trainable))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _gradients(lanes: Lanes, x: Tensor, y: Tensor) -> Mapping[int, LayerGradient]:
    """What the examples' gradients are made of, by place of the parameter."""
    if isinstance(lanes, DenseLanes):
        return _dense(lanes, x, y)
    if isinstance(lanes, SingleLane) and written_out(lanes.model):
        found = _layer_by_layer(lanes, x, y)
        if found is not None:
            return found
    if why_not_stackable(lanes.model):
        return _one_by_one(lanes, x, y)
    return _batched(lanes, x, y)


def _dense(lanes: DenseLanes, x: Tensor, y: Tensor) -> dict[int, LayerGradient]:
    """A chain of linear layers: their inputs, and the gradients of their outputs by one backward pass."""
    layers: list[tuple[Linear, Tensor, Tensor]] = []
    with torch.enable_grad():
        for op in lanes.plan:
            match op:
                case Flatten():
                    x = x.flatten(2)
                case Linear(weight, bias):
                    given, kernel = x, lanes.parameters[weight].detach().mT
                    if bias is None:
                        x = torch.bmm(given, kernel)
                    else:
                        x = torch.baddbmm(lanes.parameters[bias].detach().unsqueeze(1), given, kernel)
                    x = x if x.requires_grad else x.requires_grad_()
                    layers.append((op, given.detach(), x))
                case Apply(function):
                    x = function(x)
                case Drop():
                    x = x * op.mask(lanes.keys, x)
        errors = torch.autograd.grad(lanes.model.loss(x, y).sum(), [output for _, _, output in layers])
    found: dict[int, LayerGradient] = {}
    for (op, given, _), error in zip(layers, errors, strict=True):
        found[op.weight] = Outer(error, given)
        if op.bias is not None:
            found[op.bias] = Whole(error)
    return found


@lru_cache(maxsize=16)
def written_out(model: FlatModel) -> bool:
    """Whether every parameter belongs to one layer of a kind that is written out, and no operation works in place."""
    parts = dict(model.module.named_modules())
    held = [name for name, _ in model.module.named_parameters(remove_duplicate=False)]
    if len(held) != len(model.layout.parameters) or any(getattr(part, "inplace", False) for part in parts.values()):
        return False
    return all(
        type(part) in WRITTEN_OUT and WRITTEN_OUT[type(part)](part)
        for part in parts.values()
        if part._parameters and any(p is not None for p in part._parameters.values())
    )


def _layer_by_layer(lanes: SingleLane, x: Tensor, y: Tensor) -> dict[int, LayerGradient] | None:
    """From each layer's input and the gradient of its output; ``None`` if a layer did not run exactly once."""
    places = {slot.name: place for place, slot in enumerate(lanes.model.layout.parameters)}
    names = list(dict.fromkeys(slot.layer for slot in lanes.model.layout.parameters))
    seen: dict[str, list[tuple[Tensor, Tensor, int]]] = {name: [] for name in names}

    def record(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            seen[name].append((inputs[0].detach(), output, output._version))

        return hook

    handles = [lanes.module.get_submodule(name).register_forward_hook(record(name)) for name in names]
    try:
        with torch.enable_grad():
            loss = lanes.losses(x, y, train=True).sum()
    finally:
        for handle in handles:
            handle.remove()
    if any(len(runs) != 1 or runs[0][1]._version != runs[0][2] for runs in seen.values()):
        return None
    errors = torch.autograd.grad(loss, [seen[name][0][1] for name in names])
    found: dict[int, LayerGradient] = {}
    for name, error in zip(names, errors, strict=True):
        layer = lanes.model.module.get_submodule(name)
        for part, gradient in layer_gradients(layer, seen[name][0][0], error).items():
            found[places[f"{name}.{part}" if name else part]] = gradient
    return found


@dataclass(frozen=True, eq=False)
class _Copy:
    """A model's module on another device and in another precision, in train mode."""

    module: nn.Module
    buffers: dict[str, Tensor]
    dropouts: tuple[str, ...]


@lru_cache(maxsize=4)
def _copied(model: FlatModel, device: torch.device, dtype: torch.dtype) -> _Copy:
    module = copy.deepcopy(model.module).to(device=device, dtype=dtype).train()
    parts = [(name, part) for name, part in module.named_modules() if isinstance(part, CounterDropout)]
    dropouts = tuple(f"{name}.key" if name else "key" for name, _ in parts)
    return _Copy(module, dict(module.named_buffers()), dropouts)


def _batched(lanes: Lanes, x: Tensor, y: Tensor) -> dict[int, LayerGradient]:
    """By ``vmap`` over the examples, one lane after another; each example drops units of its own."""
    model, like = lanes.model, lanes.parameters[0]
    own = _copied(model, like.device, like.dtype)
    names = tuple(slot.name for slot in model.layout.parameters)
    steps = torch.arange(x.shape[1], device=lanes.keys.device) * -7046029254386353131

    def loss(tensors: dict[str, Tensor], keys: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(own.module, own.buffers | tensors | keys, (x.unsqueeze(0),))
        return model.loss(outputs, y.unsqueeze(0)).sum()

    per_example = vmap(grad(loss), in_dims=(None, 0, 0, 0))
    rows = []
    for lane in range(x.shape[0]):
        tensors = {name: p[lane].detach() for name, p in zip(names, lanes.parameters, strict=True)}
        keys = dict.fromkeys(own.dropouts, lanes.keys[lane] + steps)
        rows.append(per_example(tensors, keys, x[lane], y[lane]))
    return {place: Whole(torch.stack([row[name] for row in rows])) for place, name in enumerate(names)}


def _one_by_one(lanes: Lanes, x: Tensor, y: Tensor) -> dict[int, LayerGradient]:
    """A backward pass for every example."""
    found: list[tuple[Tensor, ...]] = []
    for example in range(x.shape[1]):
        one = slice(example, example + 1)
        with torch.enable_grad():
            loss = lanes.losses(x[:, one], y[:, one], train=True).sum()
        found.append(torch.autograd.grad(loss, lanes.parameters))
    return {place: Whole(torch.stack(parts, dim=1)) for place, parts in enumerate(zip(*found, strict=True))}
