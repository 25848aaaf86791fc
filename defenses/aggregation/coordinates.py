"""Rules that treat every coordinate alone: median, trimmed mean, mean around the median."""

from __future__ import annotations

from torch import Tensor

from fedsec import geometry
from fedsec.round_geometry import coordinatewise

from .bounds import minority


@coordinatewise
def coordinate_median(U: Tensor) -> Tensor:
    """Coordinate-wise median (Yin et al. 2018, Definition 1), ``(n, d)`` to ``(d,)``.

    For even ``n`` the mean of the two middle values. Withstands fewer than ``n / 2`` rows.

    Raises:
        ValueError: the matrix is empty or not finite.
    """
    geometry.check_rows(U)
    return geometry.coordinate_median(U)


@coordinatewise
def trimmed_mean(U: Tensor, *, f: int) -> Tensor:
    """Coordinate-wise trimmed mean (Yin et al. 2018, Definition 2), ``(n, d)`` to ``(d,)``.

    Drops the ``f`` lowest and the ``f`` highest values of each coordinate.

    Raises:
        ValueError: not ``n >= 2f + 1``, or the matrix is not finite.
    """
    geometry.check_rows(U)
    minority("trimmed mean", U.shape[0], f)
    return geometry.trimmed_mean(U, f)


@coordinatewise
def mean_around_median(U: Tensor, *, f: int) -> Tensor:
    """Mean of the ``n - f`` values of each coordinate that are nearest its median, ``(n, d)`` to ``(d,)``.

    Xie et al. 2018, "Generalized Byzantine-tolerant SGD", section 4.3. Of two values at the same distance on either
    side of the median, the lower is taken.

    Raises:
        ValueError: not ``n >= 2f + 1``, or the matrix is not finite.
    """
    geometry.check_rows(U)
    minority("mean around median", U.shape[0], f)
    return geometry.mean_around_median(U, U.shape[0] - f)
