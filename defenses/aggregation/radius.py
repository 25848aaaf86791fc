"""Clipping: about a point, to a fixed norm, to a norm that the rows themselves give."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.round_geometry import RoundGeometry, mixes, weighs

from .bounds import minority


def centered_clipping_coefficients(
    round_: RoundGeometry, *, tau: float, iterations: int = 1, start_row: int | None = None
) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `centered_clipping` about zero, or about a row that is no client's.

    Args:
        round_: the rows.
        tau: clipping radius.
        iterations: steps.
        start_row: index of the row that is the start; it does not count as an update. ``None`` starts at zero.

    Raises:
        ValueError: ``tau`` or ``iterations`` is not positive.
    """
    _checked(tau, iterations)
    products = round_.raw_gram
    squares = products.diagonal()
    client = torch.ones(round_.n, dtype=torch.float64, device=products.device)
    weights = torch.zeros_like(client)
    if start_row is not None:
        client[start_row], weights[start_row] = 0.0, 1.0
    for _ in range(iterations):
        reach = products @ weights
        norms = (squares - 2.0 * reach + weights @ reach).clamp_min(0.0).sqrt()
        share = client * (tau / norms.clamp_min(tau)) / client.sum()
        weights = weights * (1.0 - share.sum()) + share
    return weights


@weighs(centered_clipping_coefficients, without=("start",))
def centered_clipping(U: Tensor, *, tau: float, iterations: int = 1, start: Tensor | None = None) -> Tensor:
    """Centered clipping (Karimireddy et al. 2021, algorithm 2), ``(n, d)`` to ``(d,)``.

    ``v <- v + mean_i (x_i - v) min(1, tau / |x_i - v|)``.

    Args:
        U: ``(n, d)``; the paper's ``x_i`` are worker momenta.
        tau: clipping radius, in the unit of the updates.
        iterations: steps ``L``; the paper uses 1.
        start: ``(d,)`` the paper's previous aggregate; ``None`` is zero.

    Raises:
        ValueError: ``tau`` is not positive, ``iterations`` is not, shapes differ, or the matrix is not finite.
    """
    round_ = RoundGeometry(U)
    _checked(tau, iterations)
    n, d = U.shape
    centre = torch.zeros(d, dtype=torch.float64, device=U.device) if start is None else start.to(torch.float64)
    if centre.shape != (d,):
        raise ValueError(f"start must have shape ({d},), got {tuple(centre.shape)}")
    for step in range(iterations):
        at_zero = start is None and step == 0
        norms = round_.norms if at_zero else geometry.row_norms(U, centre=centre.to(U.dtype))
        share = (tau / norms.clamp_min(tau)) / n
        centre = centre * (1.0 - share.sum()) + round_.combine(share)
    return centre.to(U.dtype)


def clip_norms_matrix(round_: RoundGeometry, *, c: float) -> Tensor:
    """Matrix ``(n, n)`` fp64 of `clip_norms`: diagonal."""
    if not c > 0:
        raise ValueError(f"a clipping norm must be positive, got c = {c}")
    return (c / round_.norms.clamp_min(c)).diag()


@mixes(clip_norms_matrix)
def clip_norms(U: Tensor, *, c: float) -> Tensor:
    """Rows longer than ``c`` are shortened to ``c``, ``(n, d)`` to ``(n, d)``.

    Raises:
        ValueError: ``c`` is not positive, or the matrix is not finite.
    """
    round_ = RoundGeometry(U)
    return round_.mixed(clip_norms_matrix(round_, c=c)).rows


def adaptive_clipping_matrix(round_: RoundGeometry, *, f: int) -> Tensor:
    """Matrix ``(n, n)`` fp64 of `adaptive_clipping`: diagonal."""
    n = round_.n
    minority("adaptive clipping", n, f)
    norms = round_.norms
    # floor(2 (f / n) (n - f)) in whole numbers, which do not round
    limit = norms.sort(descending=True).values[2 * f * (n - f) // n]
    return torch.where(norms > limit, limit / norms, 1.0).diag()


@mixes(adaptive_clipping_matrix)
def adaptive_clipping(U: Tensor, *, f: int) -> Tensor:
    """Adaptive robust clipping, ARC (Allouah et al. 2025, algorithm 2), ``(n, d)`` to ``(n, d)``.

    The ``floor(2 (f / n) (n - f))`` longest rows are shortened to the norm of the next one.

    Raises:
        ValueError: not ``n >= 2f + 1``, or the matrix is not finite.
    """
    round_ = RoundGeometry(U)
    return round_.mixed(adaptive_clipping_matrix(round_, f=f)).rows


def _checked(tau: float, iterations: int) -> None:
    if not tau > 0 or iterations < 1:
        raise ValueError(f"needs tau > 0 and iterations >= 1, got tau = {tau} and iterations = {iterations}")
