"""Norm balls around inputs: steepest ascent, projection and uniform starts, shared by evasion and adversarial training.

Everything here is called under ``no_grad`` and outside the graph of a loss: the gradient of ``clamp`` at its
bound is not the same in every release of torch, and most pixels of an image lie at a bound.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
AnyNorm = Literal["linf", "l2", "l1"]
TINY = 1e-12
SPARSE = 0.01
"""Share of an example's features that a step in ``l1`` changes, at least one."""


def lengths(delta: Tensor, norm: AnyNorm, *, lead: int = 1) -> Tensor:
    """Norm of each example's perturbation, shaped to broadcast: ``(*lead, *shape)`` to ``(*lead, 1, ...)``.

    Args:
        delta: one perturbation per example.
        norm: ``linf``, ``l2`` or ``l1``, over all dimensions of an example.
        lead: how many leading dimensions count examples.
    """
    flat = delta.flatten(lead)
    size = (
        flat.square().sum(-1).sqrt() if norm == "l2" else flat.abs().amax(-1) if norm == "linf" else flat.abs().sum(-1)
    )
    return size.reshape(*delta.shape[:lead], *(1 for _ in delta.shape[lead:]))


def steepest(gradient: Tensor, norm: AnyNorm, *, lead: int = 1) -> Tensor:
    """The direction of length 1 that ascends fastest in a norm: the sign, or the gradient over its length.

    In ``l1`` that is the one feature with the largest gradient, which takes many steps; here the hundredth of the
    features with the largest ones share the step equally (Tramer and Boneh 2019, section 3.1), up to 100 features one.

    A gradient of zero, and one that is not a number, gives no direction (zero).
    """
    gradient = torch.nan_to_num(gradient, nan=0.0)
    if norm == "linf":
        return gradient.sign()
    if norm == "l1":
        flat = gradient.flatten(lead)
        most = flat.abs().topk(max(1, round(SPARSE * flat.shape[-1])) if flat.shape[-1] else 0, dim=-1).indices
        picked = torch.zeros_like(flat).scatter_(-1, most, flat.gather(-1, most).sign())
        return (picked / picked.abs().sum(-1, keepdim=True).clamp_min(1.0)).reshape(gradient.shape)
    return gradient * lengths(gradient, norm, lead=lead).clamp_min(TINY).reciprocal()


def project(delta: Tensor, eps: float, norm: AnyNorm, *, lead: int = 1) -> Tensor:
    """The nearest (Euclidean) perturbation of length at most ``eps``, example by example.

    In ``l1`` the sizes are lowered by one number, found by sorting (Duchi et al. 2008, figure 1).
    """
    if norm == "linf":
        return delta.clamp(-eps, eps)
    if norm == "l1":
        size = delta.flatten(lead).abs()
        ordered = size.sort(dim=-1, descending=True).values
        count = torch.arange(1, size.shape[-1] + 1, device=size.device, dtype=size.dtype)
        excess = (ordered.cumsum(-1) - eps) / count
        # The largest of them: beyond the features that stay, each further one lowers the mean excess.
        lowered = excess.amax(-1, keepdim=True).clamp_min(0.0)
        return delta.sign() * (size - lowered).clamp_min(0.0).reshape(delta.shape)
    return delta * (eps / lengths(delta, norm, lead=lead).clamp_min(TINY)).clamp_max(1.0)


def uniform_in_ball(unit: Tensor, radius: Tensor, eps: float, norm: AnyNorm, *, lead: int = 1) -> Tensor:
    """Perturbations uniform in the ball, from uniform numbers.

    Args:
        unit: ``(*lead, *shape)`` uniform in [0, 1).
        radius: ``lead`` uniform in [0, 1), not used by ``linf``.
        eps: size of the ball.
        norm: of the ball.
        lead: how many leading dimensions count examples.

    Returns:
        ``(*lead, *shape)``. For ``l2`` the direction is that of a Gaussian vector (by its quantile function) and
        the length is ``eps u^(1/n)``, which is uniform in volume; ``eps u`` would crowd the centre. For
        ``l1`` the sizes are exponential variables over their sum, uniform on the simplex, with random signs.
    """
    if norm == "linf":
        return (2 * unit - 1) * eps
    count = unit[(0,) * lead].numel() if unit.numel() else 1
    length = eps * radius.pow(1 / count).reshape(*unit.shape[:lead], *(1 for _ in unit.shape[lead:]))
    if norm == "l1":
        half = 2 * unit - 1
        drawn = half.sign() * -torch.log1p(-half.abs().clamp_max(1 - 1e-7))
        return drawn / lengths(drawn, "l1", lead=lead).clamp_min(TINY) * length
    gaussian = torch.special.ndtri(unit.clamp(1e-7, 1 - 1e-7).double()).to(unit.dtype)
    return steepest(gaussian, "l2", lead=lead) * length
