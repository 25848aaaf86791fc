"""3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3): a quarter of the multiplications, and reusable parts.

Gradient matching needs each convolution seven times per step: forward, back, forward and back along tangents, the
weight's gradient and both its adjoints. All seven are products of the same few transforms (of the input, of the slope,
of the weight), and every transform here is one matrix product over tiles.

Sources: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.3 (the matrices);
the adjoints are the transposes of equation 7. In fp32 the error is about 3e-6 of the result, three times that of a
direct convolution.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_B = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_G = [
    [1 / 4, 0, 0],
    [-1 / 6] * 3,
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_A = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
SMALLEST = 16
"""Side in pixels from which images have enough tiles to pay for the transforms of the weights."""
CONSTANT = 7
"""A number added at this place of a transformed tile (row 1, column 1) is added to each of the tile's 16 outputs."""


class Transforms:
    """The three linear maps of the algorithm and their transposes, for images ``(n, h, w, c)`` and weights."""

    def __init__(self, like: Tensor) -> None:
        """Args: like: dtype and device."""
        exact = (torch.tensor(matrix, dtype=torch.float64) for matrix in (_B, _G, _A))
        self.b, self.g, self.a = (torch.kron(matrix, matrix).to(like) for matrix in exact)

    def inputs(self, x: Tensor) -> Tensor:
        """``(n, h, w, c)`` to overlapping tiles ``(36, n * tiles, c)``; padded by 1."""
        _, height, width, channels = x.shape
        down, across = _tiles(height), _tiles(width)
        x = functional.pad(x, (0, 0, 1, 4 * across + 1 - width, 1, 4 * down + 1 - height))
        tiles = x.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
        return (self.b @ tiles).view(36, -1, channels)

    def inputs_adjoint(self, tiles: Tensor, shape: torch.Size) -> Tensor:
        """``(36, n * tiles, c)`` to the sum of overlapping tiles, ``(n, h, w, c)``."""
        many, height, width, channels = shape
        down, across = _tiles(height), _tiles(width)
        y = (self.b.T @ tiles.view(36, -1)).view(6, 6, many, down, across, channels).permute(2, 3, 0, 4, 1, 5)
        x = y.new_zeros(many, down + 1, 4, across + 1, 4, channels)
        x[:, :down, :, :across] = y[:, :, :4, :, :4]
        x[:, 1:, :2, :across] += y[:, :, 4:, :, :4]
        x[:, :down, :, 1:, :2] += y[:, :, :4, :, 4:]
        x[:, 1:, :2, 1:, :2] += y[:, :, 4:, :, 4:]
        return x.view(many, 4 * down + 4, 4 * across + 4, channels)[:, 1 : height + 1, 1 : width + 1]

    def outputs(self, tiles: Tensor, shape: torch.Size) -> Tensor:
        """``(36, n * tiles, c)`` to ``(n, h, w, c)``."""
        many, height, width, _ = shape
        down, across, channels = _tiles(height), _tiles(width), tiles.shape[2]
        y = (self.a @ tiles.view(36, -1)).view(4, 4, many, down, across, channels).permute(2, 3, 0, 4, 1, 5)
        return y.reshape(many, 4 * down, 4 * across, channels)[:, :height, :width]

    def outputs_adjoint(self, y: Tensor) -> Tensor:
        """``(n, h, w, c)`` to ``(36, n * tiles, c)``."""
        many, height, width, channels = y.shape
        down, across = _tiles(height), _tiles(width)
        if height % 4 or width % 4:
            y = functional.pad(y, (0, 0, 0, 4 * across - width, 0, 4 * down - height))
        tiles = y.reshape(many, down, 4, across, 4, channels).permute(2, 4, 0, 1, 3, 5).reshape(16, -1)
        return (self.a.T @ tiles).view(36, -1, channels)

    def weights(self, weight: Tensor) -> Tensor:
        """``(*lead, out, in, 3, 3)`` to ``(36, *lead, out, in)``."""
        return (self.g @ weight.reshape(-1, 9).T).view(36, *weight.shape[:-2])

    def weights_adjoint(self, products: Tensor) -> Tensor:
        """``(36, *lead, out, in)`` to ``(*lead, out, in, 3, 3)``."""
        return (products.reshape(36, -1).T @ self.g).view(*products.shape[1:], 3, 3)


class WinogradConv(nn.Module):
    """A 3x3 convolution with stride 1 and padding 1 whose parameters do not change.

    Attributes:
        weight: ``(out, in, 3, 3)``.
        seen: transformed inputs of the last forward pass, if it ran by Winograd's algorithm.
        slope: transformed slopes of the last backward pass, if there was one.
    """

    weight: Tensor
    kernel_size, stride, padding, dilation = (3, 3), (1, 1), (1, 1), (1, 1)

    def __init__(self, module: nn.Conv2d) -> None:
        """Args: module: what it computes."""
        super().__init__()
        self.register_buffer("weight", module.weight.detach(), persistent=False)
        self.bias = None if module.bias is None else module.bias.detach()
        self.transforms = Transforms(module.weight)
        self.transformed = self.transforms.weights(self.weight)
        self.seen: Tensor | None = None
        self.slope: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in, h, w)`` to ``(n, out, h, w)``."""
        if min(x.shape[2:]) < SMALLEST:
            self.seen = self.slope = None
            return nn.functional.conv2d(x, self.weight, self.bias, padding=1)
        return cast(Tensor, Forward.apply(x, self))  # type: ignore[no-untyped-call]


def fits(module: nn.Conv2d) -> bool:
    """Whether the algorithm computes this convolution; faster than a direct one from about 48 channels."""
    shape = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups, module.padding_mode)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


class Forward(torch.autograd.Function):
    """The convolution; twice differentiable in its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: WinogradConv) -> Tensor:
        """``(n, in, h, w)`` to ``(n, out, h, w)``."""
        ctx.conv = conv
        nhwc = x.permute(0, 2, 3, 1)
        conv.seen, conv.slope = conv.transforms.inputs(nhwc), None
        tiles = conv.seen @ conv.transformed.mT
        if conv.bias is not None:
            tiles[CONSTANT] += conv.bias
        return conv.transforms.outputs(tiles, nhwc.shape).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """``(n, out, h, w)`` to ``(n, in, h, w)``."""
        return cast(Tensor, Back.apply(slope, ctx.conv)), None  # type: ignore[no-untyped-call]


class Back(torch.autograd.Function):
    """From slopes at the output to slopes at the input; differentiable in the former."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, conv: WinogradConv) -> Tensor:
        """``(n, out, h, w)`` to ``(n, in, h, w)``."""
        ctx.conv = conv
        nhwc = slope.permute(0, 2, 3, 1)
        conv.slope = conv.transforms.outputs_adjoint(nhwc)
        shape = torch.Size((*nhwc.shape[:3], conv.weight.shape[1]))
        return conv.transforms.inputs_adjoint(conv.slope @ conv.transformed, shape).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:
        """``(n, in, h, w)`` to ``(n, out, h, w)``."""
        conv, nhwc = ctx.conv, tangent.permute(0, 2, 3, 1)
        tiles = conv.transforms.inputs(nhwc) @ conv.transformed.mT
        return conv.transforms.outputs(tiles, nhwc.shape).permute(0, 3, 1, 2), None


def weight_gradients(seen: Tensor, slope: Tensor, lanes: int, transforms: Transforms) -> Tensor:
    """``(36, l * p, in)`` and ``(36, l * p, out)`` to ``(l, out, in, 3, 3)``."""
    inner, outer = seen.view(36, lanes, -1, seen.shape[2]), slope.view(36, lanes, -1, slope.shape[2])
    return transforms.weights_adjoint(outer.mT @ inner)


def along(seen: Tensor, kernels: Tensor, bias: Tensor | None, shape: torch.Size, transforms: Transforms) -> Tensor:
    """Convolution of transformed inputs with a transformed weight per lane, ``(n, out, h, w)``.

    Args:
        seen: ``(36, l * p, in)``.
        kernels: ``(36, l, out, in)``.
        bias: ``(l, out)``.
        shape: ``(n, h, w, _)``.
        transforms: of this dtype and device.
    """
    tiles = seen.view(36, kernels.shape[1], -1, seen.shape[2]) @ kernels.mT
    if bias is not None:
        tiles[CONSTANT] += bias.unsqueeze(1)
    return transforms.outputs(tiles.flatten(1, 2), shape).permute(0, 3, 1, 2)


def back_along(slope: Tensor, kernels: Tensor, shape: torch.Size, transforms: Transforms) -> Tensor:
    """Slopes at the input, ``(n, in, h, w)``, of that convolution.

    Args:
        slope: ``(36, l * p, out)``.
        kernels: ``(36, l, out, in)``.
        shape: ``(n, h, w, in)``.
        transforms: of this dtype and device.
    """
    tiles = slope.view(36, kernels.shape[1], -1, slope.shape[2]) @ kernels
    return transforms.inputs_adjoint(tiles.flatten(1, 2), shape).permute(0, 3, 1, 2)


def _tiles(length: int) -> int:
    return -(-length // 4)
