"""The geometric median, from inner products alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedsec.round_geometry import RoundGeometry, weighs

Start = Literal["near half", "mean", "origin"]


def geometric_median_coefficients(
    round_: RoundGeometry,
    *,
    smoothing: float = 1e-6,
    tolerance: float = 1e-8,
    iterations: int = 1000,
    nu: float | None = None,
    start: Start = "near half",
) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `geometric_median`, non-negative with sum 1."""
    if iterations < 1:
        raise ValueError(f"needs iterations >= 1, got {iterations}")
    n = round_.n
    products = round_.gram
    squares = products.diagonal()
    weights = torch.full((n,), 1.0 / n, dtype=torch.float64, device=products.device)
    if start == "near half":
        # the mean of the rows nearest the most central one: far rows do not reach it
        near = round_.squared_distances[int(round_.squared_distances.median(dim=1).values.argmin())]
        weights = (near <= near.median()).double()
        weights /= weights.sum()

    def distances_to(point: Tensor) -> Tensor:
        reach = products @ point
        return (squares - 2.0 * reach + point @ reach).clamp_min(0.0).sqrt()

    distances = round_.norms if start == "origin" else distances_to(weights)
    scale = float(distances.median())
    if scale == 0.0 and start != "origin":  # more than half of the rows are one point, which is then the median
        return weights
    floor = smoothing * scale if nu is None else nu
    for _ in range(iterations):
        inverse = 1.0 / distances.clamp_min(floor)
        update = inverse / inverse.sum()
        step = update - weights
        weights = update
        moved = float((step @ products @ step).clamp_min(0.0).sqrt())
        distances = distances_to(weights)
        if moved <= tolerance * scale:
            break
    return weights


def geometric_median_weights(
    U: Tensor, *, smoothing: float = 1e-6, tolerance: float = 1e-8, iterations: int = 1000
) -> Tensor:
    """Coefficients ``(n,)`` of the geometric median, non-negative with sum 1; arguments as `geometric_median`."""
    return geometric_median_coefficients(
        RoundGeometry(U), smoothing=smoothing, tolerance=tolerance, iterations=iterations
    )


@weighs(geometric_median_coefficients)
def geometric_median(
    U: Tensor,
    *,
    smoothing: float = 1e-6,
    tolerance: float = 1e-8,
    iterations: int = 1000,
    nu: float | None = None,
    start: Start = "near half",
) -> Tensor:
    """The point with the smallest sum of distances to the rows, ``(n, d)`` to ``(d,)``.

    Smoothed Weiszfeld iteration on the whole vector (Pillutla et al. 2022, algorithm 2), with two differences:
    the smoothing is relative to the median distance, so that the result scales with the updates, and it
    runs to convergence instead of three steps. It works on the Gram matrix, so a step costs ``n^2``.
    Withstands fewer than ``n / 2`` rows.

    Args:
        U: ``(n, d)``.
        smoothing: lower bound of a distance, in median distances to the starting point.
        tolerance: stops when a step is shorter than this many median distances.
        iterations: steps at the most.
        nu: the lower bound in the unit of the updates, as the paper has it, instead of ``smoothing``.
        start: the mean of the half nearest the most central row, the mean of all (the paper), or the origin
            (other implementations, of few steps; the limit does not depend on it).

    Raises:
        ValueError: the matrix is empty or not finite, or ``iterations`` is not positive.
    """
    round_ = RoundGeometry(U)
    return round_.combine(
        geometric_median_coefficients(
            round_, smoothing=smoothing, tolerance=tolerance, iterations=iterations, nu=nu, start=start
        )
    )
