"""Norm balls around inputs: steepest ascent, projection and uniform starts, shared by evasion and adversarial training.

Everything here is called under ``no_grad`` and outside the graph of a loss: the gradient of ``clamp`` at its
bound is not the same in every release of torch, and most pixels of an image lie at a bound.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
TINY = 1e-12


def lengths(delta: Tensor, norm: Norm, *, lead: int = 1) -> Tensor:
    """Norm of each example's perturbation, shaped to broadcast: ``(*lead, *shape)`` to ``(*lead, 1, ...)``.

    Args:
        delta: one perturbation per example.
        norm: ``linf`` or ``l2``, over all dimensions of an example.
        lead: how many leading dimensions count examples.
    """
    flat = delta.flatten(lead)
    size = flat.abs().amax(-1) if norm == "linf" else flat.norm(dim=-1)
    return size.reshape(*delta.shape[:lead], *(1 for _ in delta.shape[lead:]))


def steepest(gradient: Tensor, norm: Norm, *, lead: int = 1) -> Tensor:
    """The direction of length 1 that ascends fastest in a norm: the sign, or the gradient over its length.

    A gradient of zero, and one that is not a number, gives no direction (zero).
    """
    gradient = torch.nan_to_num(gradient, nan=0.0)
    if norm == "linf":
        return gradient.sign()
    return gradient / lengths(gradient, norm, lead=lead).clamp_min(TINY)


def project(delta: Tensor, eps: float, norm: Norm, *, lead: int = 1) -> Tensor:
    """The nearest perturbation of length at most ``eps``, example by example."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / lengths(delta, norm, lead=lead).clamp_min(TINY)).clamp_max(1.0)


def uniform_in_ball(unit: Tensor, radius: Tensor, eps: float, norm: Norm, *, lead: int = 1) -> Tensor:
    """Perturbations uniform in the ball, from uniform numbers.

    Args:
        unit: ``(*lead, *shape)`` uniform in [0, 1).
        radius: ``lead`` uniform in [0, 1), used by ``l2`` only.
        eps: size of the ball.
        norm: of the ball.
        lead: how many leading dimensions count examples.

    Returns:
        ``(*lead, *shape)``. For ``l2`` the direction is that of a Gaussian vector (by its quantile function) and
        the length is ``eps u^(1/n)``, which is uniform in volume; ``eps u`` would crowd the centre.
    """
    if norm == "linf":
        return (2 * unit - 1) * eps
    gaussian = torch.special.ndtri(unit.clamp(1e-7, 1 - 1e-7).double()).to(unit.dtype)
    count = unit[(0,) * lead].numel() if unit.numel() else 1
    length = eps * radius.pow(1 / count).reshape(*unit.shape[:lead], *(1 for _ in unit.shape[lead:]))
    return steepest(gaussian, "l2", lead=lead) * length
