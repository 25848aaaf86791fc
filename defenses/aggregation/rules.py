"""Robust aggregation rules as pure functions on the update matrix ``U (n, d)``.

No rule changes its input; every rule refuses what its paper's condition excludes, with the bound in the
message. The coordinate-wise rules, Krum and the geometric median ignore example counts: a client that lies about
its number of examples would otherwise buy influence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec import geometry


def mean(U: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of the rows: no robustness at all, one row moves it anywhere.

    Args:
        U: ``(n, d)`` updates.
        weights: ``(n,)`` non-negative, of positive sum; ``None`` weighs all rows alike.

    Returns:
        ``(d,)``.

    Raises:
        ValueError: the matrix is not finite, or the weights are not of that kind.
    """
    geometry.check_rows(U)
    if weights is None:
        weights = torch.ones(U.shape[0], dtype=torch.float64, device=U.device)
    share = weights.to(torch.float64)
    if share.shape != (U.shape[0],) or not bool((share >= 0).all()) or not float(share.sum()) > 0:
        raise ValueError(f"weights must be {U.shape[0]} non-negative numbers with a positive sum")
    return geometry.combine(U, share / share.sum())


def coordinate_median(U: Tensor) -> Tensor:
    """Coordinate-wise median (Yin et al. 2018, Definition 1), ``(n, d)`` to ``(d,)``.

    For even ``n`` the mean of the two middle values. Withstands fewer than ``n / 2`` rows.

    Raises:
        ValueError: the matrix is empty or not finite.
    """
    geometry.check_rows(U)
    return geometry.coordinate_median(U)


def trimmed_mean(U: Tensor, *, f: int) -> Tensor:
    """Coordinate-wise trimmed mean (Yin et al. 2018, Definition 2), ``(n, d)`` to ``(d,)``.

    Drops the ``f`` lowest and the ``f`` highest values of each coordinate.

    Raises:
        ValueError: not ``n >= 2f + 1``, or the matrix is not finite.
    """
    geometry.check_rows(U)
    _bounded("trimmed mean", U.shape[0], f, least=2 * f + 1, bound="2f + 1")
    return geometry.trimmed_mean(U, f)


def krum_scores(U: Tensor, *, f: int, neighbours: int | None = None) -> Tensor:
    """Krum's score of each row: the sum of its squared distances to its nearest other rows.

    Blanchard et al. 2017, section 4.

    Args:
        U: ``(n, d)``.
        f: rows that may be arbitrary.
        neighbours: how many others count; ``None`` is the paper's ``n - f - 2``. Some libraries take
            ``n - f - 1``.

    Returns:
        ``(n,)`` fp64, lower is more central.

    Raises:
        ValueError: not ``n >= 2f + 3``, ``neighbours`` not in ``1..n-1``, or the matrix is not finite.
    """
    geometry.check_rows(U)
    n = U.shape[0]
    _bounded("Krum", n, f, least=2 * f + 3, bound="2f + 3")
    count = n - f - 2 if neighbours is None else neighbours
    if not 1 <= count <= n - 1:
        raise ValueError(f"neighbours must be in 1..n-1 = 1..{n - 1}, got {count}")
    distances = geometry.squared_distances(geometry.centred_gram(U))
    # the row itself is at distance 0 and sorts first
    others = distances.fill_diagonal_(-1.0).sort(dim=1).values[:, 1:]
    return others[:, :count].sum(dim=1)


def krum(U: Tensor, *, f: int, neighbours: int | None = None) -> Tensor:
    """The row with the lowest Krum score (Blanchard et al. 2017, section 4), ``(n, d)`` to ``(d,)``.

    Ties go to the first row, as in the paper (smallest identifier).

    Raises:
        ValueError: as `krum_scores`.
    """
    return U[int(krum_scores(U, f=f, neighbours=neighbours).argmin())].clone()


def krum_selection(U: Tensor, *, f: int, m: int | None = None) -> Tensor:
    """Indices ``(m,)`` of the rows that Multi-Krum averages, best first; arguments as `multi_krum`."""
    n = U.shape[0]
    scores = krum_scores(U, f=f)
    count = n - f if m is None else m
    if not 1 <= count <= n - f:
        raise ValueError(f"Multi-Krum needs 1 <= m <= n - f = {n - f}, got m = {count}")
    return scores.argsort(stable=True)[:count]


def multi_krum(U: Tensor, *, f: int, m: int | None = None) -> Tensor:
    """Mean of the ``m`` rows with the lowest Krum scores (Blanchard et al. 2017, section 5), ``(n, d)`` to ``(d,)``.

    Args:
        U: ``(n, d)``.
        f: rows that may be arbitrary.
        m: rows averaged; ``None`` is ``n - f``. The paper's guarantee covers ``m <= n - 2f - 2``.

    Raises:
        ValueError: not ``n >= 2f + 3``, not ``1 <= m <= n - f``, or the matrix is not finite.
    """
    chosen = krum_selection(U, f=f, m=m)
    share = torch.zeros(U.shape[0], dtype=torch.float64, device=U.device)
    share[chosen] = 1.0 / len(chosen)
    return geometry.combine(U, share)


def geometric_median_weights(
    U: Tensor, *, smoothing: float = 1e-6, tolerance: float = 1e-8, iterations: int = 1000
) -> Tensor:
    """Coefficients ``(n,)`` of the geometric median, non-negative with sum 1; arguments as `geometric_median`."""
    geometry.check_rows(U)
    n = U.shape[0]
    products = geometry.centred_gram(U)
    squares = products.diagonal()
    # the iterate is centre + sum_i w_i (x_i - centre); w = 0 starts at the coordinate-wise median
    weights = torch.zeros(n, dtype=torch.float64, device=U.device)
    distances = squares.clamp_min(0.0).sqrt()
    scale = float(distances.quantile(0.5))
    if scale == 0.0:  # more than half of the rows are one point, which is then the median
        at_centre = (distances == 0.0).double()
        return at_centre / at_centre.sum()
    floor = smoothing * scale
    for _ in range(iterations):
        inverse = 1.0 / distances.clamp_min(floor)
        update = inverse / inverse.sum()
        step = update - weights
        weights = update
        moved = float((step @ products @ step).clamp_min(0.0).sqrt())
        reach = products @ weights
        distances = (squares - 2.0 * reach + weights @ reach).clamp_min(0.0).sqrt()
        if moved <= tolerance * scale:
            break
    return weights


def geometric_median(U: Tensor, *, smoothing: float = 1e-6, tolerance: float = 1e-8, iterations: int = 1000) -> Tensor:
    """The point with the smallest sum of distances to the rows, ``(n, d)`` to ``(d,)``.

    Smoothed Weiszfeld iteration on the whole vector (Pillutla et al. 2022, algorithm 2), with two differences:
    the smoothing is relative to the median distance, so that the result scales with the updates, and it
    runs to convergence instead of three steps. It works on the Gram matrix, so a step costs ``n^2``.
    Withstands fewer than ``n / 2`` rows.

    Args:
        U: ``(n, d)``.
        smoothing: lower bound of a distance, in median distances to the coordinate-wise median.
        tolerance: stops when a step is shorter than this many median distances.
        iterations: steps at the most.

    Raises:
        ValueError: the matrix is empty or not finite.
    """
    return geometry.combine(
        U, geometric_median_weights(U, smoothing=smoothing, tolerance=tolerance, iterations=iterations)
    )


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
    geometry.check_rows(U)
    if not tau > 0 or iterations < 1:
        raise ValueError(f"needs tau > 0 and iterations >= 1, got tau = {tau} and iterations = {iterations}")
    n, d = U.shape
    centre = torch.zeros(d, dtype=torch.float64, device=U.device) if start is None else start.to(torch.float64)
    if centre.shape != (d,):
        raise ValueError(f"start must have shape ({d},), got {tuple(centre.shape)}")
    for _ in range(iterations):
        norms = geometry.row_norms(U, centre=centre)
        share = (tau / norms.clamp_min(tau)) / n
        moved = torch.empty_like(centre)
        for span in geometry.spans(d):
            moved[span] = centre[span] + share @ (U[:, span].double() - centre[span])
        centre = moved
    return centre.to(U.dtype)


def _bounded(rule: str, n: int, f: int, *, least: int, bound: str) -> None:
    if f < 0 or n < least:
        raise ValueError(f"{rule} needs f >= 0 and n >= {bound} = {least} updates, got n = {n} and f = {f}")
