"""The gradient of each lane of a batch, from what entered each layer and the loss's slope at what left it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedsec.models.flat import Slot

from .winograd import CONSTANT, WinogradConv, along, back_along, weight_gradients

UNFOLDED = 1 << 21
"""Convolutions of fewer multiplications per example than this run as one matrix product over all unfolded inputs."""
FEW_PLACES = 256
"""So do convolutions with fewer outputs per channel than this, whose unfolded inputs are small beside the weights."""

Convolution = nn.Conv2d | WinogradConv


@dataclass(frozen=True)
class Norm:
    """Batch norm with known statistics, folded into the layer before it.

    Attributes:
        gain: its slot.
        shift: its slot.
        scale: ``(out,)`` gain over deviation: what the layer's own weight was multiplied by.
        weight: the layer's own weight over the deviation.
        centre: ``(out,)`` the layer's own bias minus the mean, over the deviation.
    """

    gain: Slot
    shift: Slot
    scale: Tensor
    weight: Tensor
    centre: Tensor


@dataclass(frozen=True)
class Layer:
    """One layer with parameters, and where its gradients lie.

    Attributes:
        module: a convolution, a linear layer or a `Scale`.
        weight: slot of its weight.
        bias: slot of its bias, if any.
        norm: what was folded into it, if anything.
    """

    module: nn.Module
    weight: Slot
    bias: Slot | None
    norm: Norm | None = None

    def write(self, flat: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Put gradients ``(l, *shape)`` and ``(l, out)`` of the layer as it runs in their places in ``(l, p)``."""
        place = _at(flat, self.weight)
        if self.norm is None:
            place.copy_(weight)
            if self.bias is not None:
                _at(flat, self.bias).copy_(bias)
            return
        norm = self.norm
        torch.mul(weight, rows(norm.scale, weight), out=place)
        if self.bias is not None:
            _at(flat, self.bias).copy_(bias * norm.scale)
        along_weight = torch.einsum("loi,oi->lo", weight.flatten(2), norm.weight.flatten(1))
        _at(flat, norm.gain).copy_(along_weight + bias * norm.centre)
        _at(flat, norm.shift).copy_(bias)

    def read(self, flat: Tensor) -> tuple[Tensor, Tensor | None]:
        """The transpose of `write`: directions ``(l, *shape)`` and ``(l, out)`` for the layer as it runs."""
        weight, bias = _at(flat, self.weight), None if self.bias is None else _at(flat, self.bias)
        if self.norm is None:
            return weight, bias
        norm = self.norm
        gain, shift = _at(flat, norm.gain), _at(flat, norm.shift)
        weight = weight * rows(norm.scale, weight)
        weight.addcmul_(norm.weight, gain.view(*gain.shape, *(1,) * (weight.ndim - 2)))
        shift = shift + gain * norm.centre
        return weight, shift if bias is None else shift + bias * norm.scale


class Scale(nn.Module):
    """``x * weight + bias`` per channel: the part of a normalisation that has parameters."""

    def __init__(self, channels: int) -> None:
        """Args: channels: the size of the second dimension."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, *)`` to ``(n, c, *)``."""
        return torch.addcmul(channels(self.bias, x), x, channels(self.weight, x))


class Products(torch.autograd.Function):
    """What entered each layer ``(l * b, ...)`` times the slopes at what left it, summed per lane: ``(l, p)``."""

    @staticmethod
    def forward(ctx: Any, layers: tuple[Layer, ...], lanes: int, size: int, *tensors: Tensor) -> Tensor:
        """Args: layers; lanes ``l``; size ``p``; inputs of all layers, then slopes at their outputs."""
        flat = tensors[0].new_empty(lanes, size)
        ctx.tiles, ctx.columns = {}, {}
        for i, layer in enumerate(layers):
            module, given, slope = layer.module, tensors[i], tensors[len(layers) + i]
            if isinstance(module, WinogradConv) and module.seen is not None:
                seen = module.seen
                outer = module.slope  # the first layer's backward pass did not run
                if outer is None:
                    outer = module.transforms.outputs_adjoint(slope.permute(0, 2, 3, 1))
                ctx.tiles[i] = seen, outer
                bias = outer[CONSTANT].view(lanes, -1, outer.shape[2]).sum(1)
                layer.write(flat, weight_gradients(seen, outer, lanes, module.transforms), bias)
                continue
            if isinstance(module, nn.Conv2d | WinogradConv) and _is_small(module, slope):
                ctx.columns[i] = _unfold(module, given)
            layer.write(flat, *_products(module, given, slope, lanes, ctx.columns.get(i)))
        ctx.layers, ctx.lanes = layers, lanes
        ctx.save_for_backward(*tensors)
        return flat

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        """Args: direction: ``(l, p)``."""
        many = len(ctx.layers)
        given, slopes = ctx.saved_tensors[:many], ctx.saved_tensors[many:]
        needs = ctx.needs_input_grad[3:]
        to_given: list[Tensor | None] = []
        to_slopes: list[Tensor | None] = []
        for i, layer in enumerate(ctx.layers):
            weight, bias = layer.read(direction)
            if i in ctx.tiles:
                module, (seen, outer) = layer.module, ctx.tiles[i]
                shape = given[i].permute(0, 2, 3, 1).shape
                kernels = module.transforms.weights(weight)
                to_given.append(back_along(outer, kernels, shape, module.transforms) if needs[i] else None)
                to_slopes.append(along(seen, kernels, bias, shape, module.transforms))
                continue
            columns = ctx.columns.get(i)
            pair = _adjoint(layer.module, given[i], slopes[i], weight, bias, ctx.lanes, needs[i], columns)
            to_given.append(pair[0])
            to_slopes.append(pair[1])
        return None, None, None, *to_given, *to_slopes


def _products(
    module: nn.Module, given: Tensor, slope: Tensor, lanes: int, columns: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of weight ``(l, *shape)`` and bias ``(l, out)``; small convolutions from unfolded inputs."""
    if isinstance(module, nn.Linear):
        left, right = slope.reshape(lanes, -1, slope.shape[-1]), given.reshape(lanes, -1, given.shape[-1])
        return left.mT @ right, left.sum(1)
    bias = _sum(slope, lanes)
    if isinstance(module, Scale):
        return _sum(slope * given, lanes), bias
    module = cast(Convolution, module)
    if columns is not None:
        per_example = slope.flatten(2) @ columns.mT
        return per_example.view(lanes, -1, *module.weight.shape).sum(1), bias
    size = len(given) // lanes
    options = (list(module.stride), list(module.padding), list(module.dilation), False, [0, 0], 1)
    parts = [
        torch.ops.aten.convolution_backward(d, a, module.weight, None, *options, [False, True, False])[1]
        for a, d in zip(torch.split(given, size), torch.split(slope, size), strict=True)
    ]
    return torch.stack(parts), bias


def _adjoint(
    module: nn.Module,
    given: Tensor,
    slope: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lanes: int,
    wanted: bool,
    columns: Tensor | None,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of ``<weight, dW> + <bias, db>`` in what entered the layer and in the slope at what left it."""
    size = len(given) // lanes
    if isinstance(module, nn.Linear):
        left, right = slope.reshape(lanes, -1, slope.shape[-1]), given.reshape(lanes, -1, given.shape[-1])
        to_slope = right @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), right, weight.mT)
        return (left @ weight).view(given.shape) if wanted else None, to_slope.view(slope.shape)
    if isinstance(module, Scale):
        gain, shift = (_channels_of_lanes(each, size, slope) for each in (weight, cast(Tensor, bias)))
        return slope * gain if wanted else None, torch.addcmul(shift, given, gain)
    module = cast(Convolution, module)
    if columns is not None:
        kernels = weight.flatten(2).repeat_interleave(size, 0)
        to_slope = kernels @ columns
        if bias is not None:
            to_slope = to_slope + bias.repeat_interleave(size, 0).unsqueeze(2)
        back = _fold(module, kernels.mT @ slope.flatten(2), given) if wanted else None
        return back, to_slope.view(slope.shape)
    options = (list(module.stride), list(module.padding), list(module.dilation))
    to_given = torch.empty_like(given) if wanted else None
    to_slope = torch.empty_like(slope)
    for lane in range(lanes):
        own = slice(lane * size, (lane + 1) * size)
        a, d, w = given[own], slope[own], weight[lane]
        to_slope[own] = torch.ops.aten.convolution(
            a, w, None if bias is None else bias[lane], *options, False, [0, 0], 1
        )
        if to_given is not None:
            to_given[own] = torch.ops.aten.convolution_backward(
                d, a, w, None, *options, False, [0, 0], 1, [True, False, False]
            )[0]
    return to_given, to_slope


def _sum(x: Tensor, lanes: int) -> Tensor:
    """Of all positions of each channel, ``(l * b, c, *)`` to ``(l, c)``."""
    per_example = x.sum(tuple(range(2, x.ndim))) if x.ndim > 2 else x
    return per_example.view(lanes, -1, x.shape[1]).sum(1)


def _is_small(module: Convolution, slope: Tensor) -> bool:
    places = slope[0, 0].numel()
    return slope.device.type != "cpu" or places < FEW_PLACES or module.weight.numel() * places < UNFOLDED


def _unfold(module: Convolution, x: Tensor) -> Tensor:
    size, dilation, padding, stride = _geometry(module)
    return nn.functional.unfold(x, size, dilation, padding, stride)


def _fold(module: Convolution, columns: Tensor, like: Tensor) -> Tensor:
    size, dilation, padding, stride = _geometry(module)
    return nn.functional.fold(columns, like.shape[2:], size, dilation, padding, stride)


def _geometry(module: Convolution) -> tuple[tuple[int, ...], ...]:
    return module.kernel_size, module.dilation, cast("tuple[int, ...]", module.padding), module.stride


def _at(flat: Tensor, slot: Slot) -> Tensor:
    return flat[:, slot.start : slot.stop].view(-1, *slot.shape)


def rows(factor: Tensor, weight: Tensor, *, lead: int = 1) -> Tensor:
    """A factor per output, ``(out,)``, to multiply a weight with ``lead`` dimensions before it."""
    return factor.view(-1, *(1,) * (weight.ndim - lead - 1))


def channels(values: Tensor, x: Tensor) -> Tensor:
    """Values per channel ``(c,)``, to combine with ``(n, c, *)``."""
    return values.view(1, -1, *(1,) * (x.ndim - 2))


def _channels_of_lanes(values: Tensor, size: int, x: Tensor) -> Tensor:
    return values.repeat_interleave(size, 0).view(len(x), -1, *(1,) * (x.ndim - 2))
