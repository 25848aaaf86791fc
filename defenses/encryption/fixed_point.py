"""Fixed point: rows on a grid, so that an approximate scheme gives an exact, reproducible sum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fedsec.protocol.payload import Plain

Row = npt.NDArray[np.float64]


def to_grid(values: Row, bits: int) -> Row:
    """Round to the nearest multiple of ``2**-bits`` (ties to even); exact in float64 below ``2**(53 - bits)``.

    Args:
        values: any shape.
        bits: of the fraction.
    """
    unit = float(2**bits)
    return np.asarray(np.rint(values * unit) / unit, dtype=np.float64)


def weighted_rows(update: Plain, *, unit: float, bits: int) -> Row:
    """The rows ``[w / unit * update, w / unit]`` on the grid.

    Args:
        update: ``n`` updates of length ``d`` with weights ``w``.
        unit: what the weights are divided by, public and the same for everyone.
        bits: of the grid's fraction.

    Returns:
        float64 ``(n, d + 1)``.
    """
    weights = (update.weights.detach().to("cpu", torch.float64) / unit)[:, None]
    values = update.values.detach().to("cpu", torch.float64) * weights
    return to_grid(torch.cat([values, weights], dim=1).numpy(), bits)


def mean_of_sum(total: Row, *, unit: float, dtype: torch.dtype) -> Plain:
    """The weighted mean and the total weight behind a sum of `weighted_rows`.

    Args:
        total: float64 ``(d + 1,)`` on the grid.
        unit: what the weights were divided by.
        dtype: of the federation.

    Returns:
        One row: the mean (zero if the total weight is zero) and, in float64, the total weight.
    """
    weight = float(total[-1])
    mean = total[:-1] / weight if weight else np.zeros_like(total[:-1])
    return Plain(torch.from_numpy(mean)[None].to(dtype), torch.tensor([weight * unit], dtype=torch.float64))
