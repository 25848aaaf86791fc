"""Pre-aggregation by averages: of nearest neighbours, of random buckets. A robust rule follows."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.round_geometry import RoundGeometry, mixes

from .bounds import minority


def nearest_neighbor_mixing_matrix(round_: RoundGeometry, *, f: int) -> Tensor:
    """Matrix ``(n, n)`` fp64 of `nearest_neighbor_mixing`: ``n - f`` entries of ``1 / (n - f)`` per row."""
    n = round_.n
    minority("nearest-neighbor mixing", n, f)
    # a row is its own nearest neighbour, also where others are identical to it
    distances = round_.squared_distances.clone().fill_diagonal_(-1.0)
    nearest = distances.argsort(dim=1, stable=True)[:, : n - f]
    return torch.zeros_like(distances).scatter_(1, nearest, 1.0 / (n - f))


@mixes(nearest_neighbor_mixing_matrix)
def nearest_neighbor_mixing(U: Tensor, *, f: int) -> Tensor:
    """Nearest-neighbor mixing, NNM (Allouah et al. 2023, algorithm 2), ``(n, d)`` to ``(n, d)``.

    Each row becomes the mean of the ``n - f`` rows nearest to it, itself included. The rule that follows
    withstands the same ``f``. Of rows at the same distance the first is taken.

    Raises:
        ValueError: not ``n >= 2f + 1``, or the matrix is not finite.
    """
    round_ = RoundGeometry(U)
    return round_.mixed(nearest_neighbor_mixing_matrix(round_, f=f)).rows


def bucketing_matrix(round_: RoundGeometry, *, s: int, generator: torch.Generator) -> Tensor:
    """Matrix ``(ceil(n / s), n)`` fp64 of `bucketing`."""
    n = round_.n
    if not 1 <= s <= n:
        raise ValueError(f"bucketing needs 1 <= s <= n = {n}, got s = {s}")
    order = torch.randperm(n, generator=generator, device=generator.device).to(round_.device)
    result = torch.zeros(-(-n // s), n, dtype=torch.float64, device=round_.device)
    result[torch.arange(n, device=round_.device) // s, order] = 1.0
    return result / result.sum(dim=1, keepdim=True)


@mixes(bucketing_matrix)
def bucketing(U: Tensor, *, s: int, generator: torch.Generator) -> Tensor:
    """Means of random buckets (Karimireddy, He, Jaggi 2022, algorithm 1), ``(n, d)`` to ``(ceil(n / s), d)``.

    A random permutation, then consecutive rows ``s`` by ``s``; the last bucket may be smaller. The rule that follows
    keeps ``f`` and has only ``ceil(n / s)`` rows, so that ``f < n / (2 s)`` is needed.

    Args:
        U: ``(n, d)``.
        s: rows per bucket; the paper uses 2.
        generator: of the permutation, drawn anew at each call.

    Raises:
        ValueError: not ``1 <= s <= n``, or the matrix is not finite.
    """
    round_ = RoundGeometry(U)
    return round_.mixed(bucketing_matrix(round_, s=s, generator=generator)).rows
