"""Clipping of a round's matrix: by joint norm, by coordinate, by layer. Pure; the input is never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.models.flat import Layout
from fedsec.pages import unfilled
from fedsec.round_geometry import RoundGeometry, mixes


def clip_norms(updates: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Scale every row whose L2 norm exceeds the bound down to it (McMahan et al. 2018, eq. of flat clipping).

    The norm is joint over all coordinates, float buffers included, and computed in float64, so that neither
    an all-zero row (factor 1) nor one that overflows in float32 is divided wrongly. A scaled row is made four
    machine epsilons shorter than the bound: rounding can then not lift it above, and clipping twice is
    clipping once, bit for bit.

    Args:
        updates: ``(n, d)``.
        bound: largest L2 norm.

    Returns:
        ``(n, d)`` clipped rows in the dtype of the input, and ``(n,)`` bool, which rows were scaled.
    """
    norms = geometry.row_norms(updates)
    clipped = norms > bound
    shrink = bound * (1.0 - 4.0 * torch.finfo(updates.dtype).eps)
    factors = torch.where(clipped, shrink / torch.clamp(norms, min=bound), 1.0)
    with torch.no_grad():
        result = unfilled(updates.shape[0], updates.shape[1], updates)
        return torch.mul(updates, factors.to(updates.dtype)[:, None], out=result), clipped


def shortening(round_: RoundGeometry, *, bound: float) -> Tensor:
    """Matrix ``(n, n)`` fp64 of `shortened`: diagonal."""
    return (bound / round_.norms.clamp_min(bound)).diag()


@mixes(shortening)
def shortened(updates: Tensor, *, bound: float) -> Tensor:
    """The rows of `clip_norms`, ``(n, d)`` to ``(n, d)``, as a step before a rule."""
    return clip_norms(updates, bound)[0]


def clip_values(updates: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Clip every coordinate to ``[-bound, bound]``.

    Args:
        updates: ``(n, d)``.
        bound: largest absolute value.

    Returns:
        ``(n, d)`` clipped rows, and ``(n, d)`` bool, which coordinates changed.
    """
    with torch.no_grad():
        return updates.clamp(-bound, bound), updates.abs() > bound


def clip_layers(
    updates: Tensor, bounds: Mapping[str, float], spans: Mapping[str, Sequence[slice]]
) -> tuple[Tensor, Tensor]:
    """Clip the L2 norm of each layer by itself (McMahan et al. 2018, per-layer clipping).

    With bounds ``c_l`` the joint norm is at most ``sqrt(sum c_l^2)``, if every layer is named.

    Args:
        updates: ``(n, d)``.
        bounds: largest L2 norm by layer; layers without a bound stay as they are.
        spans: coordinates of each layer (`layer_spans`).

    Returns:
        ``(n, d)`` clipped rows, and ``(n, layers)`` bool in the order of ``bounds``, what was scaled.

    Raises:
        KeyError: a bound names a layer that the model does not have.
    """
    result = updates.clone()
    scaled: list[Tensor] = []
    for name, bound in bounds.items():
        index = torch.cat([torch.arange(span.start, span.stop, device=updates.device) for span in spans[name]])
        part, clipped = clip_norms(updates[:, index], bound)
        result[:, index] = part
        scaled.append(clipped)
    if not scaled:
        return result, torch.zeros((len(updates), 0), dtype=torch.bool, device=updates.device)
    return result, torch.stack(scaled, dim=1)


def layer_spans(layout: Layout) -> dict[str, tuple[slice, ...]]:
    """Coordinates of each layer by name; a layer's float buffers lie apart from its parameters and belong to it."""
    spans: dict[str, tuple[slice, ...]] = {}
    for name, span in layout.layers():
        spans[name] = (*spans.get(name, ()), span)
    return spans
