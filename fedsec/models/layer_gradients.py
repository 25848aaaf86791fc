"""Gradients of single examples for one layer, from what it read and the gradient of what it gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerGradient(Protocol):
    """The gradients of one parameter for ``l`` lanes of ``b`` examples."""

    def squares(self) -> Tensor:
        """Squared norms ``(l, b)``."""

    def total(self, factors: Tensor) -> Tensor:
        """The sum over examples weighted by ``factors (l, b)``: ``(l, *shape)``."""

    def whole(self) -> Tensor:
        """Each example's gradient, ``(l, b, *shape)``."""


@dataclass(frozen=True, eq=False)
class Outer:
    """Outer products of the rows of ``left (l, b, o)`` and ``right (l, b, i)``, never formed."""

    left: Tensor
    right: Tensor

    def squares(self) -> Tensor:
        """See `LayerGradient.squares`."""
        return self.left.square().sum(-1) * self.right.square().sum(-1)

    def total(self, factors: Tensor) -> Tensor:
        """See `LayerGradient.total`."""
        return torch.bmm((self.left * factors.unsqueeze(-1)).mT, self.right)

    def whole(self) -> Tensor:
        """See `LayerGradient.whole`."""
        return self.left.unsqueeze(-1) * self.right.unsqueeze(-2)


@dataclass(frozen=True, eq=False)
class Whole:
    """Gradients as they are.

    Attributes:
        values: ``(l, b, *stored)``.
        axes: order of the stored axes in the parameter's shape; empty if it is theirs.
    """

    values: Tensor
    axes: tuple[int, ...] = ()

    def squares(self) -> Tensor:
        """See `LayerGradient.squares`."""
        norms: Tensor = torch.linalg.vector_norm(self.values.flatten(2), dim=2)
        return norms.square()

    def total(self, factors: Tensor) -> Tensor:
        """See `LayerGradient.total`."""
        summed = torch.bmm(factors.unsqueeze(1), self.values.flatten(2)).squeeze(1)
        return self._placed(summed.view(len(summed), *self.values.shape[2:]), lead=1)

    def whole(self) -> Tensor:
        """See `LayerGradient.whole`."""
        return self._placed(self.values, lead=2)

    def _placed(self, values: Tensor, *, lead: int) -> Tensor:
        return values.permute(*range(lead), *(lead + axis for axis in self.axes)) if self.axes else values


def layer_gradients(layer: nn.Module, given: Tensor, error: Tensor) -> dict[str, LayerGradient]:
    """The gradients of a layer's parameters, by name; ``l`` is 1.

    Args:
        layer: of a kind in `WRITTEN_OUT`.
        given: ``(b, *)`` what it read.
        error: ``(b, *)`` gradient of the sum of the losses in its output.
    """
    match layer:
        case nn.Linear():
            found = _linear(given, error)
        case nn.Conv2d():
            found = _convolution(layer, given, error)
        case nn.GroupNorm():
            found = _group_norm(layer, given, error)
        case nn.LayerNorm():
            found = _layer_norm(layer, given, error)
        case _:
            raise TypeError(f"the gradient of {type(layer).__name__} for one example is not written out")
    return {name: found[name] for name, parameter in layer._parameters.items() if parameter is not None}


def _linear(given: Tensor, error: Tensor) -> dict[str, LayerGradient]:
    if given.dim() == 2:
        return {"weight": Outer(error.unsqueeze(0), given.unsqueeze(0)), "bias": Whole(error.unsqueeze(0))}
    given, error = given.flatten(1, -2), error.flatten(1, -2)
    return {"weight": Whole(torch.bmm(error.mT, given).unsqueeze(0)), "bias": Whole(error.sum(1).unsqueeze(0))}


def _convolution(layer: nn.Conv2d, given: Tensor, error: Tensor) -> dict[str, LayerGradient]:
    """Each example's patches times the errors of where they lie, with the channel as the fastest axis of a patch."""
    patches = _patches(layer, given)
    rows = error.permute(0, 2, 3, 1).flatten(1, 2)
    weight = torch.bmm(rows.mT, patches)
    kernel = weight.view(1, *weight.shape[:2], *layer.kernel_size, layer.in_channels)
    return {"weight": Whole(kernel, axes=(0, 3, 1, 2)), "bias": Whole(error.sum((2, 3)).unsqueeze(0))}


def _patches(layer: nn.Conv2d, given: Tensor) -> Tensor:
    """``(b, positions, kernel height x kernel width x channels)``."""
    (down, right), (height, width), (dy, dx) = _two(layer.padding), layer.kernel_size, layer.dilation
    if down or right:
        given = functional.pad(given, (right, right, down, down))
    windows = given.unfold(2, dy * (height - 1) + 1, layer.stride[0]).unfold(3, dx * (width - 1) + 1, layer.stride[1])
    return windows[..., ::dy, ::dx].permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def _two(padding: Any) -> tuple[int, int]:
    return int(padding[0]), int(padding[1])


def _group_norm(layer: nn.GroupNorm, given: Tensor, error: Tensor) -> dict[str, LayerGradient]:
    normal = functional.group_norm(given, layer.num_groups, eps=layer.eps)
    weight = (normal * error).flatten(2).sum(2) if given.dim() > 2 else normal * error
    bias = error.flatten(2).sum(2) if given.dim() > 2 else error
    return {"weight": Whole(weight.unsqueeze(0)), "bias": Whole(bias.unsqueeze(0))}


def _layer_norm(layer: nn.LayerNorm, given: Tensor, error: Tensor) -> dict[str, LayerGradient]:
    shape = layer.normalized_shape
    normal = functional.layer_norm(given, shape, eps=layer.eps)
    between = tuple(range(1, given.dim() - len(shape)))
    weight, bias = normal * error, error
    if between:
        weight, bias = weight.sum(between), bias.sum(between)
    return {"weight": Whole(weight.unsqueeze(0)), "bias": Whole(bias.unsqueeze(0))}


def _plain_convolution(layer: Any) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


WRITTEN_OUT: dict[type[nn.Module], Callable[[Any], bool]] = {
    nn.Linear: lambda layer: True,
    nn.Conv2d: _plain_convolution,
    nn.GroupNorm: lambda layer: True,
    nn.LayerNorm: lambda layer: True,
}
"""Kinds of layers, and which of them are written out."""
