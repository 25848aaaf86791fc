"""Divide and conquer: drop the rows that stand out along the leading direction of a sample of coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.round_geometry import RoundGeometry

from .bounds import minority


def outlier_scores(products: Tensor) -> Tensor:
    """Squared projections ``(n,)`` on the leading singular direction of the rows less their mean.

    Args:
        products: ``(n, n)`` inner products about any point.
    """
    centred = products - products.mean(dim=0, keepdim=True) - products.mean(dim=1, keepdim=True) + products.mean()
    values, vectors = torch.linalg.eigh((centred + centred.t()) / 2)
    found: Tensor = values[-1].clamp_min(0.0) * vectors[:, -1].square()
    return found


def sampled_scores(U: Tensor, *, generator: torch.Generator, iterations: int, sample: int | None) -> Tensor:
    """`outlier_scores` on each of several samples of coordinates, ``(n, d)`` to ``(iterations, n)``."""
    if iterations < 1 or (sample is not None and sample < 1):
        raise ValueError(f"needs iterations >= 1 and sample >= 1, got {iterations} and {sample}")
    d = U.shape[1]
    found = []
    for _ in range(iterations):
        part = U
        if sample is not None and sample < d:
            chosen = torch.randperm(d, generator=generator, device=generator.device)[:sample]
            part = U[:, chosen.to(U.device)]
        found.append(outlier_scores(geometry.centred_gram(part)))
    return torch.stack(found)


def divide_and_conquer_kept(
    U: Tensor,
    *,
    f: int,
    generator: torch.Generator,
    c: float = 1.0,
    iterations: int = 1,
    sample: int | None = 10_000,
) -> Tensor:
    """Which rows `divide_and_conquer` averages, ``(n,)`` bool; with several iterations perhaps none."""
    geometry.check_rows(U)
    n = U.shape[0]
    dropped = _dropped(n, f, c)
    kept = torch.ones(n, dtype=torch.bool, device=U.device)
    for scores in sampled_scores(U, generator=generator, iterations=iterations, sample=sample):
        kept[scores.argsort(stable=True)[n - dropped :]] = False
    return kept


def divide_and_conquer_coefficients(round_: RoundGeometry, *, f: int, c: float = 1.0) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `divide_and_conquer` with ``sample=None``: all coordinates, hence one iteration."""
    n = round_.n
    share = torch.zeros(n, dtype=torch.float64, device=round_.device)
    kept = outlier_scores(round_.gram).argsort(stable=True)[: n - _dropped(n, f, c)]
    share[kept] = 1.0 / len(kept)
    return share


def divide_and_conquer(
    U: Tensor,
    *,
    f: int,
    generator: torch.Generator,
    c: float = 1.0,
    iterations: int = 1,
    sample: int | None = 10_000,
) -> Tensor:
    """Divide and conquer, DnC (Shejwalkar, Houmansadr 2021, algorithm 2), ``(n, d)`` to ``(d,)``.

    Each iteration samples coordinates, projects the rows less their mean on the top right-singular vector, and marks
    the ``floor(c f)`` rows with the largest squared projections; the result is the mean of the rows never marked.

    Args:
        U: ``(n, d)``.
        f: rows that may be arbitrary.
        generator: of the samples.
        c: rows dropped per iteration, in units of ``f``; the paper's filtering fraction.
        iterations: samples drawn.
        sample: coordinates per sample; ``None`` takes all.

    Raises:
        ValueError: not ``n >= 2f + 1``, ``c f >= n``, no row is left in the intersection, or the matrix is not finite.
    """
    kept = divide_and_conquer_kept(U, f=f, generator=generator, c=c, iterations=iterations, sample=sample)
    if not bool(kept.any()):
        raise ValueError(f"divide and conquer marked every row within {iterations} iterations; lower them, c or f")
    return geometry.combine(U, kept.double() / kept.sum())


def _dropped(n: int, f: int, c: float) -> int:
    minority("divide and conquer", n, f)
    dropped = int(c * f + 1e-9)
    if not 0 <= dropped < n:
        raise ValueError(f"divide and conquer needs 0 <= c f < n = {n}, got c = {c} and f = {f}")
    return dropped
