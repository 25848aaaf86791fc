"""Bulyan: Krum chooses rows, then a mean around the median chooses values."""

from __future__ import annotations

from torch import Tensor

from fedsec import geometry
from fedsec.round_geometry import RoundGeometry

from .bounds import bounded
from .nearest import picked


def bulyan_picks(round_: RoundGeometry, *, f: int) -> Tensor:
    """Indices ``(n - 2f,)`` of the rows that Krum picks one after the other, without replacement.

    Scores are computed anew among the rows that are left: of ``n'`` rows the ``n' - f - 2`` nearest others count, at
    least one (with ``f <= 1`` the paper's number reaches 0 at the last picks).

    Raises:
        ValueError: not ``n >= 4f + 3``.
    """
    n = round_.n
    bounded("Bulyan", n, f, least=4 * f + 3, bound="4f + 3")
    return picked(round_.squared_distances, n - 2 * f, lambda left: max(1, left - f - 2))


def bulyan(U: Tensor, *, f: int) -> Tensor:
    """Bulyan of Krum (El Mhamdi, Guerraoui, Rouault 2018, section 4), ``(n, d)`` to ``(d,)``.

    Krum picks ``theta = n - 2f`` rows (`bulyan_picks`); each coordinate of the result is the mean of the
    ``theta - 2f`` picked values that are nearest the median of all picked values.

    Raises:
        ValueError: not ``n >= 4f + 3``, or the matrix is not finite.
    """
    chosen = bulyan_picks(RoundGeometry(U), f=f)
    # in the order of the input, so that permuting rows changes no rounding
    return geometry.mean_around_median(U[chosen.sort().values], len(chosen) - 2 * f)
