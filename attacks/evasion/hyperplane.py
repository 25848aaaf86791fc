"""Linear pieces of a classifier: the gradients of its logits, and the nearest point of a hyperplane in a box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Metric = Literal["linf", "l2", "l1"]
_ORDER = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}
_DUAL: dict[Metric, Metric] = {"linf": "l1", "l2": "l2", "l1": "linf"}


def size(delta: Tensor, norm: Metric, *, lead: int = 1) -> Tensor:
    """Norm of each perturbation: ``(*lead, *shape)`` to ``(*lead,)``."""
    lengths: Tensor = torch.linalg.vector_norm(delta.flatten(lead), ord=_ORDER[norm], dim=-1)
    return lengths


def dual_size(gradient: Tensor, norm: Metric, *, lead: int = 1) -> Tensor:
    """Length of a gradient in the dual norm: how fast a linear function grows per unit of ``norm``."""
    return size(gradient, _DUAL[norm], lead=lead)


def over(values: Tensor, like: Tensor) -> Tensor:
    """One number per example ``(b,)``, shaped to broadcast over ``(b, *shape)``."""
    return values.reshape(-1, *(1 for _ in like.shape[1:]))


def box(bounds: tuple[float | Tensor, float | Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of every feature: numbers or tensors that broadcast to the inputs, expanded to them."""
    low, high = (torch.as_tensor(bound, dtype=like.dtype, device=like.device).expand_as(like) for bound in bounds)
    return low, high


def opened(model: nn.Module, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """One forward pass, and as many gradients of its logits as are asked for.

    Args:
        model: inputs to logits ``(b, C)``; examples must not mix.
        x: ``(b, *shape)``.

    Returns:
        The logits, detached, and a function from weights ``(K, b, C)`` on the logits to the ``(K, b, *shape)``
        gradients of the weighted sums, by K backward passes through one graph. It can be called once. A gradient that
        is not a number counts as zero.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = model(leaf)

    def gradients(weights: Tensor) -> Tensor:
        last = len(weights) - 1
        # one after another: a batched backward pass of convolutions is no faster
        found = [torch.autograd.grad(logits, leaf, w, retain_graph=k < last)[0] for k, w in enumerate(weights)]
        return torch.nan_to_num(torch.stack(found), nan=0.0)

    return logits.detach(), gradients


def toward_plane(x: Tensor, normal: Tensor, rise: Tensor, low: Tensor, high: Tensor, norm: Metric) -> Tensor:
    """The shortest step to a hyperplane inside a box (the problem of Croce and Hein 2020, section 3), exactly.

    With ``m_i`` the size of the step in feature ``i``, always in the direction that helps, the solution is
    ``m_i = min(t, room_i)`` in ``linf`` and ``min(t |w_i|, room_i)`` in ``l2``. The rise is then piecewise linear
    and concave in ``t``, so Newton's method from zero never overshoots, closes at least one more feature per
    iteration and ends at the exact solution: a handful of sweeps where sorting takes ``n log n``. In ``l1`` the
    features with the largest weights go to their bounds first.

    Args:
        x: ``(b, *shape)`` points within the box.
        normal: ``(b, *shape)`` normals ``w``.
        rise: ``(b,)`` wanted ``<w, step>``, of either sign.
        low: ``(b, *shape)`` lowest values; may be infinite.
        high: ``(b, *shape)`` highest values; equal to the lowest where a feature cannot change.
        norm: in which the step is shortest.

    Returns:
        ``(b, *shape)`` steps. Where the box does not reach the plane, to the corner that comes nearest to it.
    """
    rise, shape = rise[:, None], x.shape
    flat = (normal.flatten(1) * torch.where(rise < 0, -1.0, 1.0)).to(x)
    rise, weight = rise.abs(), flat.abs()
    room = torch.where(flat > 0, (high - x).flatten(1), (x - low).flatten(1)).clamp_min(0)
    room = torch.where(weight > 0, room, 0.0)
    sizes = _fill_largest(weight, room, rise) if norm == "l1" else _fill_evenly(weight, room, rise, norm)
    return (flat.sign() * sizes).reshape(shape)


def _fill_evenly(weight: Tensor, room: Tensor, rise: Tensor, norm: Metric) -> Tensor:
    ratio = 1.0 if norm == "linf" else weight
    slope, corner, whole = weight * ratio, room / ratio, weight * room
    full = room <= 0
    while True:
        rest = torch.where(full, 0.0, slope).sum(1, keepdim=True)
        level = torch.where(rest > 0, (rise - torch.where(full, whole, 0.0).sum(1, keepdim=True)) / rest, torch.inf)
        now = full | (corner <= level)
        if torch.equal(now, full):
            return torch.where(full, room, level.clamp_min(0) * ratio)
        full = now


def _fill_largest(weight: Tensor, room: Tensor, rise: Tensor) -> Tensor:
    sorted_weight, order = weight.sort(dim=1, descending=True)
    most = torch.minimum(room.gather(1, order) * sorted_weight, rise).nan_to_num(0.0)
    before = torch.cat([torch.zeros_like(rise), most.cumsum(1)[:, :-1]], 1)
    share = torch.minimum((rise - before).clamp_min(0), most)
    filled = torch.where(
        share < most, share / sorted_weight, torch.minimum(room.gather(1, order), rise / sorted_weight)
    )
    filled = torch.where((share > 0) & (sorted_weight > 0), filled, 0.0)
    return torch.zeros_like(weight).scatter(1, order, filled)
