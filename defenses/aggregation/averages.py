"""The mean: no robustness at all, and the yardstick of all others."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.round_geometry import RoundGeometry, weighs


def mean_coefficients(round_: RoundGeometry, *, weights: Tensor | None = None) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `mean`."""
    if weights is None:
        return torch.full((round_.n,), 1.0 / round_.n, dtype=torch.float64, device=round_.device)
    share = weights.to(device=round_.device, dtype=torch.float64)
    if share.shape != (round_.n,) or not bool((share >= 0).all()) or not 0 < float(share.sum()) < torch.inf:
        raise ValueError(f"weights must be {round_.n} non-negative numbers with a positive sum")
    return share / share.sum()


@weighs(mean_coefficients)
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
    if weights is not None:
        round_ = RoundGeometry(U)
        return round_.combine(mean_coefficients(round_, weights=weights))
    if U.dim() != 2 or not U.is_floating_point() or not U.numel():
        geometry.check_rows(U)
    result = geometry.combine(U, torch.full((U.shape[0],), 1.0 / U.shape[0], dtype=torch.float64))
    if not bool(torch.isfinite(result.sum())):
        # every row takes part, so that a bad one shows in the result, and one pass over the rows is enough
        geometry.check_rows(U)
    return result
