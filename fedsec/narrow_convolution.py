"""Convolutions of few channels, such as the first layer of a network on images, with a fast gradient for their input.

On a CPU the library's gradient for the input of a convolution of one to four channels costs several forward passes. As
one matrix product and a sum of overlapping patches it costs a fraction. Evasion attacks and adversarial training pay
for it in every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

FEW = 4
"""Most input channels for which the product is faster."""


def eligible(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a layer is a plain convolution of images of few channels (no groups, dilation or special padding)."""
    return (
        type(layer) is nn.Conv2d
        and layer.in_channels <= FEW
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.device.type == "cpu"
    )


def replace_forward(model: nn.Module) -> list[nn.Conv2d]:
    """Have the convolutions of few channels take the gradient for their input by `narrow_conv2d`, for good.

    Returns:
        Those that did not before. ``del layer.forward`` undoes it.
    """
    layers = [part for part in model.modules() if eligible(part) and "forward" not in part.__dict__]
    for layer in layers:
        layer.forward = _Forward(layer)  # type: ignore[method-assign, assignment]
    return layers


@contextmanager
def fast_input_gradients(model: nn.Module) -> Iterator[nn.Module]:
    """Within it, convolutions of few channels take the gradient for their input by `narrow_conv2d`.

    Outputs are equal to the bit, gradients up to rounding. A model without such a layer is left alone.
    """
    layers = replace_forward(model)
    try:
        yield model
    finally:
        for layer in layers:
            del layer.forward


class _Forward:
    def __init__(self, layer: nn.Conv2d) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        if x.dim() != 4 or isinstance(layer.padding, str) or not (x.requires_grad and torch.is_grad_enabled()):
            plain: Tensor = layer._conv_forward(x, layer.weight, layer.bias)
            return plain
        return narrow_conv2d(x, layer.weight, layer.bias, stride=layer.stride, padding=layer.padding)


def narrow_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """``torch.nn.functional.conv2d`` whose gradient for ``x`` is a matrix product and a fold; differentiable twice.

    Args:
        x: ``(b, i, h, w)``.
        weight: ``(o, i, k, l)``.
        bias: ``(o,)`` or ``None``.
        stride: of both directions.
        padding: zeros at both ends of both directions.
    """
    result: Tensor = _NarrowConv.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
    return result


class _NarrowConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.biased = stride, padding, bias is not None
        return nn.functional.conv2d(x, weight, bias, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        found: list[Tensor | None] = [None, None, None]
        if for_x:
            patches = weight.flatten(1).t() @ gradient.flatten(2)
            found[0] = nn.functional.fold(
                patches, x.shape[2:], weight.shape[2:], padding=ctx.padding, stride=ctx.stride
            )
        if for_weight or (ctx.biased and for_bias):
            mask = (False, for_weight, ctx.biased and for_bias)
            sizes = [len(weight)] if ctx.biased else None
            _, found[1], found[2] = torch.ops.aten.convolution_backward(
                gradient, x, weight, sizes, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, mask
            )
        return *found, None, None
