"""Krum and Multi-Krum, in the paper's reading and, by name, in the readings of other implementations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from fedsec.round_geometry import RoundGeometry, weighs

from .bounds import bounded

Preset = Literal["blanchard17", "byzfl", "flpoison", "calicarpa", "ndss21", "blades"]


@dataclass(frozen=True, kw_only=True)
class KrumVariant:
    """One reading of Krum.

    Attributes:
        fewer: the ``n - f - fewer`` nearest other rows count.
        power: a distance counts as its ``power``-th power; the paper's is 2.
        least: smallest ``n`` for an ``f``, and how the bound reads.
        kept: rows that Multi-Krum averages, from ``(n, f)``.
        most: the largest such number allowed, from ``(n, f)``.
        repeated: each pick is removed and the rest scored anew, instead of one ranking.
    """

    fewer: int = 2
    power: float = 2.0
    least: Callable[[int], int] = lambda f: 2 * f + 3
    bound: str = "2f + 3"
    kept: Callable[[int, int], int] = lambda n, f: n - f
    most: Callable[[int, int], int] = lambda n, f: n - f
    limit: str = "n - f"
    repeated: bool = False


PRESETS: MappingProxyType[str, KrumVariant] = MappingProxyType(
    {
        "blanchard17": KrumVariant(),
        "byzfl": KrumVariant(fewer=1, least=lambda f: 2 * f + 1, bound="2f + 1"),
        "flpoison": KrumVariant(
            fewer=1,
            power=1.0,
            least=lambda f: f + 2,
            bound="f + 2",
            kept=lambda n, f: max(1, int(0.2 * n)),
            most=lambda n, f: n,
            limit="n",
        ),
        "calicarpa": KrumVariant(
            power=1.0, kept=lambda n, f: n - f - 2, most=lambda n, f: n - f - 2, limit="n - f - 2"
        ),
        "ndss21": KrumVariant(
            fewer=3,
            least=lambda f: 2 * f + 3,
            kept=lambda n, f: n - 2 * f - 2,
            most=lambda n, f: n - 2 * f - 2,
            limit="n - 2f - 2",
            repeated=True,
        ),
        "blades": KrumVariant(
            power=4.0, least=lambda f: max(3, 2 * f + 2), bound="max(3, 2f + 2)", kept=lambda n, f: 1
        ),
    }
)
"""The paper (Blanchard et al. 2017; Flower and FoolsGold's code read it alike) and five other implementations."""


def scores_of(
    round_: RoundGeometry,
    *,
    f: int,
    preset: Preset = "blanchard17",
    neighbours: int | None = None,
    power: float | None = None,
) -> Tensor:
    """`krum_scores` from the geometry of a round."""
    variant = _variant(preset)
    n = round_.n
    bounded("Krum", n, f, least=variant.least(f), bound=variant.bound)
    count = n - f - variant.fewer if neighbours is None else neighbours
    # a repeated pick of the last rows may have no neighbour left to count
    if not (0 if variant.repeated and neighbours is None else 1) <= count <= n - 1:
        raise ValueError(f"neighbours must be in 1..n-1 = 1..{n - 1}, got {count}")
    return _scores(round_.squared_distances, count, variant.power if power is None else power)


def selection_of(
    round_: RoundGeometry,
    *,
    f: int,
    m: int | None = None,
    preset: Preset = "blanchard17",
    neighbours: int | None = None,
    power: float | None = None,
) -> Tensor:
    """`krum_selection` from the geometry of a round."""
    variant = _variant(preset)
    n = round_.n
    scores = scores_of(round_, f=f, preset=preset, neighbours=neighbours, power=power)
    count = variant.kept(n, f) if m is None else m
    if not 1 <= count <= variant.most(n, f):
        raise ValueError(f"Multi-Krum needs 1 <= m <= {variant.limit} = {variant.most(n, f)}, got m = {count}")
    if not variant.repeated:
        return scores.argsort(stable=True)[:count]
    return picked(
        round_.squared_distances,
        count,
        # of n' rows left, n' - f - 3 neighbours
        lambda left: max(0, left - f - variant.fewer) if neighbours is None else min(neighbours, left - 1),
        variant.power if power is None else power,
    )


def picked(distances: Tensor, count: int, neighbours: Callable[[int], int], power: float = 2.0) -> Tensor:
    """Krum's winner, removed, then the winner among the rest, and so on: ``(count,)`` indices in order.

    Args:
        distances: ``(n, n)`` squared distances.
        count: picks.
        neighbours: from the number of rows left, how many others count.
        power: as in `krum_scores`.
    """
    left = list(range(distances.shape[0]))
    result = []
    for _ in range(count):
        scores = _scores(distances[left][:, left], neighbours(len(left)), power)
        result.append(left.pop(int(scores.argmin())))
    return torch.tensor(result, device=distances.device)


def krum_coefficients(
    round_: RoundGeometry,
    *,
    f: int,
    preset: Preset = "blanchard17",
    neighbours: int | None = None,
    power: float | None = None,
) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `krum`: one 1, all others 0."""
    best = scores_of(round_, f=f, preset=preset, neighbours=neighbours, power=power).argmin()
    return torch.nn.functional.one_hot(best, round_.n).double()


def multi_krum_coefficients(
    round_: RoundGeometry,
    *,
    f: int,
    m: int | None = None,
    preset: Preset = "blanchard17",
    neighbours: int | None = None,
    power: float | None = None,
) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `multi_krum`: ``1 / m`` for those selected, 0 for others."""
    chosen = selection_of(round_, f=f, m=m, preset=preset, neighbours=neighbours, power=power)
    share = torch.zeros(round_.n, dtype=torch.float64, device=chosen.device)
    share[chosen] = 1.0 / len(chosen)
    return share


def krum_scores(
    U: Tensor, *, f: int, preset: Preset = "blanchard17", neighbours: int | None = None, power: float | None = None
) -> Tensor:
    """Krum's score of each row: the sum of its squared distances to its nearest other rows.

    Blanchard et al. 2017, section 4. Implementations read it differently; ``preset`` names a reading (`PRESETS`), and
    ``neighbours`` and ``power`` override it.

    Args:
        U: ``(n, d)``.
        f: rows that may be arbitrary.
        preset: whose reading; the default is the paper's.
        neighbours: how many others count; ``None`` is the preset's, the paper's ``n - f - 2``.
        power: of the distances; ``None`` is the preset's, the paper's 2.

    Returns:
        ``(n,)`` fp64, lower is more central.

    Raises:
        ValueError: ``n`` below the preset's bound (the paper's ``2f + 3``), ``neighbours`` not in ``1..n-1``, an
            unknown preset, or the matrix is not finite.
    """
    return scores_of(RoundGeometry(U), f=f, preset=preset, neighbours=neighbours, power=power)


@weighs(krum_coefficients)
def krum(
    U: Tensor, *, f: int, preset: Preset = "blanchard17", neighbours: int | None = None, power: float | None = None
) -> Tensor:
    """The row with the lowest Krum score (Blanchard et al. 2017, section 4), ``(n, d)`` to ``(d,)``.

    Ties go to the first row, as in the paper (smallest identifier).

    Raises:
        ValueError: as `krum_scores`.
    """
    return U[int(krum_scores(U, f=f, preset=preset, neighbours=neighbours, power=power).argmin())].clone()


def krum_selection(
    U: Tensor,
    *,
    f: int,
    m: int | None = None,
    preset: Preset = "blanchard17",
    neighbours: int | None = None,
    power: float | None = None,
) -> Tensor:
    """Indices ``(m,)`` of the rows that Multi-Krum averages, best first; arguments as `multi_krum`."""
    return selection_of(RoundGeometry(U), f=f, m=m, preset=preset, neighbours=neighbours, power=power)


@weighs(multi_krum_coefficients)
def multi_krum(
    U: Tensor,
    *,
    f: int,
    m: int | None = None,
    preset: Preset = "blanchard17",
    neighbours: int | None = None,
    power: float | None = None,
) -> Tensor:
    """Mean of the ``m`` rows with the lowest Krum scores (Blanchard et al. 2017, section 5), ``(n, d)`` to ``(d,)``.

    Args:
        U: ``(n, d)``.
        f: rows that may be arbitrary.
        m: rows averaged; ``None`` is the preset's, by default ``n - f``. The paper's guarantee covers
            ``m <= n - 2f - 2``.
        preset: whose reading of Krum, as in `krum_scores`.
        neighbours: as in `krum_scores`.
        power: as in `krum_scores`.

    Raises:
        ValueError: as `krum_scores`, or ``m`` is not between 1 and the preset's limit (``n - f``).
    """
    round_ = RoundGeometry(U)
    return round_.combine(multi_krum_coefficients(round_, f=f, m=m, preset=preset, neighbours=neighbours, power=power))


def _variant(preset: str) -> KrumVariant:
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    return PRESETS[preset]


def _scores(distances: Tensor, count: int, power: float) -> Tensor:
    # a row is its own first neighbour, at distance 0, and does not count
    others = _ascending(distances.clone().fill_diagonal_(-1.0))[:, 1 : count + 1]
    return (others if power == 2.0 else others.pow(power / 2)).sum(dim=1)


def _ascending(values: Tensor) -> Tensor:
    """Each row sorted, in place; numpy does so several times faster on a CPU."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    values.numpy().sort(axis=1)
    return values
