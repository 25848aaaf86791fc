"""Minimum-diameter averaging, exactly, without listing all subsets."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.round_geometry import RoundGeometry, weighs

from .bounds import minority


def minimum_diameter_subset(round_: RoundGeometry, *, f: int) -> Tensor:
    """Indices ``(n - f,)``, ascending, of the subset of ``n - f`` rows with the smallest diameter.

    A diameter of at most ``t`` is possible if and only if ``f`` rows cover all pairs farther apart than ``t`` (vertex
    cover). The smallest ``t`` is found by bisection over the distances; covers by branching, whose cost
    grows with ``f`` and not with ``C(n, f)``. Of several subsets the lexicographically first is taken.

    Raises:
        ValueError: not ``n >= 2f + 1``.
    """
    n = round_.n
    minority("minimum-diameter averaging", n, f)
    distances = round_.squared_distances
    limits = torch.unique(distances)
    low, high = 0, len(limits) - 1
    while low < high:
        middle = (low + high) // 2
        if _covered(_conflicts(distances, float(limits[middle])), f):
            high = middle
        else:
            low = middle + 1
    conflicts = _conflicts(distances, float(limits[low]))
    kept: list[int] = []
    removed = 0
    for row in range(n):
        if len(kept) == n - f:
            break
        if removed >> row & 1:
            continue
        # keeping a row removes all that are too far from it
        trial = removed | conflicts[row]
        budget = f - trial.bit_count()
        if budget >= 0 and _covered(
            [0 if trial >> i & 1 else c & ~trial for i, c in enumerate(conflicts)], budget, kept
        ):
            kept.append(row)
            removed = trial
        else:
            removed |= 1 << row
    return torch.tensor(kept, device=distances.device)


def minimum_diameter_averaging_coefficients(round_: RoundGeometry, *, f: int) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `minimum_diameter_averaging`."""
    chosen = minimum_diameter_subset(round_, f=f)
    share = torch.zeros(round_.n, dtype=torch.float64, device=chosen.device)
    share[chosen] = 1.0 / len(chosen)
    return share


@weighs(minimum_diameter_averaging_coefficients)
def minimum_diameter_averaging(U: Tensor, *, f: int) -> Tensor:
    """Mean of the ``n - f`` rows with the smallest diameter, MDA, ``(n, d)`` to ``(d,)``.

    El Mhamdi, Guerraoui, Guirguis, Rouault 2021, "Distributed momentum for Byzantine-resilient SGD", appendix; after
    Rousseeuw 1985. Exact (`minimum_diameter_subset`); the search is exponential in ``f`` at worst.

    Raises:
        ValueError: not ``n >= 2f + 1``, or the matrix is not finite.
    """
    round_ = RoundGeometry(U)
    return round_.combine(minimum_diameter_averaging_coefficients(round_, f=f))


def _conflicts(distances: Tensor, limit: float) -> list[int]:
    """For each row, as bits, the rows that are farther from it than the limit."""
    return [sum(1 << int(j) for j in row.nonzero().flatten()) for row in distances > limit]


def _covered(conflicts: list[int], budget: int, kept: list[int] | None = None) -> bool:
    """Whether ``budget`` rows touch every conflict. Rows in ``kept`` have no conflicts left."""
    conflicts = list(conflicts)
    while True:
        degrees = [c.bit_count() for c in conflicts]
        row = max(range(len(degrees)), key=degrees.__getitem__)
        degree = degrees[row]
        if degree == 0:
            return True
        if budget <= 0 or sum(degrees) > 2 * budget * degree:
            return False
        if degree > budget:  # all its opponents do not fit: it must go itself
            _drop(conflicts, row)
            budget -= 1
            continue
        if degree <= 2:
            return _paths_and_cycles(conflicts) <= budget
        without = list(conflicts)
        _drop(without, row)
        if _covered(without, budget - 1):
            return True
        for other in _bits(conflicts[row]):
            _drop(conflicts, other)
            budget -= 1


def _paths_and_cycles(conflicts: list[int]) -> int:
    """Rows needed to cover a graph of degrees up to 2: half of each path's edges, of a cycle's rows, rounded up."""
    total = 0
    seen = 0
    for start in range(len(conflicts)):
        if not conflicts[start] or seen >> start & 1:
            continue
        part, todo = 0, [start]
        while todo:
            row = todo.pop()
            if part >> row & 1:
                continue
            part |= 1 << row
            todo += _bits(conflicts[row])
        seen |= part
        edges = sum(conflicts[row].bit_count() for row in _bits(part)) // 2
        total += (edges + 1) // 2
    return total


def _drop(conflicts: list[int], row: int) -> None:
    for other in _bits(conflicts[row]):
        conflicts[other] &= ~(1 << row)
    conflicts[row] = 0


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found
