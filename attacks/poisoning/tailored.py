"""The search of Shejwalkar & Houmansadr 2021 for the update that harms a known rule most.

The objective is not unimodal: a rule that selects or clips rewards small steps, forgets about middling ones and may
come back for large ones. So both ways along each direction are scanned on a logarithmic grid, and the highest peaks are
narrowed down by golden section.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fedsec import geometry

from .damage import Damage, Line, Rule, damage_of
from .vectors import Direction, check_honest, mean_of, push_along

DIRECTIONS: tuple[Direction, ...] = ("std", "unit", "sign")
REACH = 1e8
"""Longest push, in radii of the honest updates: a rule whose damage still grows there has no bound."""
_SHRINK = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search.

    Attributes:
        vector: ``(d,)`` the malicious update, ``mean + gamma * p``.
        direction: which ``p``.
        gamma: the push, of either sign.
        damage: ``|rule(round) - mean|``, measured on the rows themselves.
        curve: every push that was tried: direction, gamma, and its damage (of a coordinate-wise rule estimated from a
            sample of coordinates).
    """

    vector: Tensor
    direction: Direction
    gamma: float
    damage: float
    curve: tuple[tuple[Direction, float, float], ...]


@dataclass(frozen=True)
class Budget:
    """How much a search tries.

    Attributes:
        fine: points of the grid per decade between 0.01 and 10 radii, where rules decide.
        coarse: points per decade beyond.
        lines: whether the highest peak of each direction and sign is narrowed down; just before a rule lets go, damage
            rises so steeply that the grid's heights say little about whose peak is highest.
        peaks: highest peaks that are narrowed down, wherever they are.
        steps: golden sections of each.
        finalists: best pushes that are measured on the rows themselves.
    """

    fine: int
    coarse: float
    lines: bool
    peaks: int
    steps: int
    finalists: int


CHEAP = Budget(fine=8, coarse=1.0, lines=True, peaks=2, steps=24, finalists=3)
"""Where a trial costs ``n^2``: about 400 of them."""
SAMPLED = Budget(fine=8, coarse=1.0, lines=True, peaks=1, steps=16, finalists=3)
"""Where a trial is a sample of coordinates: about 200 of the small sample and 120 of the large one."""
DEAR = Budget(fine=3, coarse=0.25, lines=False, peaks=2, steps=10, finalists=1)
"""Where a trial is the rule itself on all rows: about 100 of them."""


def tailored(
    H: Tensor,
    rule: Rule,
    *,
    f: int,
    n: int,
    direction: Direction | None = None,
    reach: float = REACH,
) -> Tensor:
    """The update whose ``f`` copies move a rule furthest from the honest mean.

    Shejwalkar & Houmansadr 2021, section 4.2 (attacks tailored to a rule). Maximises ``|rule([H; f copies of
    mean + gamma p]) - mean|`` over ``gamma`` of both signs and the three directions ``p`` of `push_along`. See `search`
    for how.

    Args:
        H: ``(h, d)``, ``h >= 2``, honest updates; the simulated round has ``h + f`` rows.
        rule: ``(h + f, d)`` to ``(d,)``, without memory; the same rows give the same result.
        f: the adversary's updates.
        n: updates in the round.
        direction: the only ``p``; ``None`` tries the three.
        reach: longest push, in radii: the larger of ``max_i |x_i - mean|`` and ``|mean|``.

    Raises:
        ValueError: ``reach`` is not positive, fewer than two rows, not finite, or not ``0 < f < n``. What the rule
            raises passes through.
    """
    return search(H, rule, f=f, n=n, direction=direction, reach=reach).vector


def search(
    H: Tensor,
    rule: Rule,
    *,
    f: int,
    n: int,
    direction: Direction | None = None,
    reach: float = REACH,
) -> Found:
    """`tailored` with what it found out on the way; arguments and errors as there.

    Rules that only weigh rows (`fedsec.round_geometry.coefficients_of`) are searched on the Gram matrix of the rows
    and the directions, coordinate-wise ones on a sample of coordinates, behind mixing matrices too; others are called
    with the whole round, fewer times (`DEAR`). The best candidates are measured on the whole round in any case.
    """
    check_honest(H, f, n, least=2)
    if not 0.0 < reach < math.inf:
        raise ValueError(f"reach must be positive, got {reach}")
    mean = mean_of(H)
    pushes: dict[Direction, Tensor] = {
        each: push_along(H, mean, each) for each in (DIRECTIONS if direction is None else (direction,))
    }
    lengths = {each: float(torch.linalg.vector_norm(push.double())) for each, push in pushes.items()}
    pushes = {each: push for each, push in pushes.items() if lengths[each] > 0.0}
    radius = float(torch.cat([geometry.row_norms(H, centre=mean), geometry.row_norms(mean.unsqueeze(0))]).max())
    line = Line(H, mean, tuple(pushes.values()), copies=f)
    damage = damage_of(rule, line)
    budget = {"products": CHEAP, "sample": SAMPLED, "rows": DEAR}[damage.reads]
    units = {each: radius / lengths[each] for each in pushes}
    trials = _Trials(damage, tuple(pushes))
    exact = line.measured(rule)
    if not pushes:  # all rows are zero
        return Found(vector=mean, direction=direction or "std", gamma=0.0, damage=exact(mean), curve=())
    # what is sent has to stay a number of its type
    _scan(trials, units, budget, min(reach, torch.finfo(H.dtype).max / (4.0 * radius)))
    places = tuple(pushes)
    measured = [(exact(line.point(places.index(each), gamma)), each, gamma) for each, gamma in trials.finalists(budget)]
    found, along, gamma = max(measured, key=lambda candidate: candidate[0])
    vector = line.point(places.index(along), gamma)
    return Found(vector=vector, direction=along, gamma=gamma, damage=found, curve=tuple(trials.curve))


class _Trials:
    """Every push that was tried."""

    def __init__(self, damage: Damage, directions: tuple[Direction, ...]) -> None:
        self._damage, self._directions = damage, directions
        self.curve: list[tuple[Direction, float, float]] = []
        self._refined: list[tuple[Direction, float, float]] = []

    def __call__(self, direction: Direction, gammas: list[float], *, rough: bool = False) -> list[float]:
        values = self._damage.of(self._directions.index(direction), gammas, rough=rough)
        tried = [(direction, gamma, value) for gamma, value in zip(gammas, values, strict=True)]
        self.curve.extend(tried)
        if not (rough and self._damage.reads == "sample"):
            self._refined.extend(tried)
        return values

    def finalists(self, budget: Budget) -> list[tuple[Direction, float]]:
        """What is measured on the rows themselves, no two pushes nearly the same.

        A sample cannot tell whose plateau is higher: there, the best and the longest push of each line are measured.
        """
        chosen: list[tuple[Direction, float]] = []
        for direction, gamma, _ in sorted(self._refined, key=lambda trial: -trial[2]):
            if len(chosen) < budget.finalists and not _near((direction, gamma), chosen):
                chosen.append((direction, gamma))
        for direction in self._directions if self._damage.reads == "sample" else ():
            for sign in (1, -1):
                line = [trial for trial in self.curve if trial[0] == direction and trial[1] * sign > 0]
                best, longest = max(line, key=lambda trial: trial[2]), max(line, key=lambda trial: abs(trial[1]))
                chosen += [end[:2] for end in (best, longest) if not _near(end[:2], chosen)]
        return chosen


def _near(push: tuple[Direction, float], others: list[tuple[Direction, float]]) -> bool:
    return any(push[0] == direction and 0.99 < push[1] / gamma < 1.01 for direction, gamma in others)


def _scan(trials: _Trials, units: dict[Direction, float], budget: Budget, reach: float) -> None:
    """The grid, then golden sections about its highest peaks."""
    grid = _grid(budget, reach)
    peaks: list[tuple[float, Direction, int, float, float]] = []
    highest: list[tuple[float, Direction, int, float, float]] = []
    for direction, unit in units.items():
        for sign in (1, -1):
            values = trials(direction, [sign * unit * step for step in grid], rough=True)
            line = []
            for place, value in enumerate(values):
                before, after = max(place - 1, 0), min(place + 1, len(grid) - 1)
                if value >= values[before] and value >= values[after] and value > 0.0:
                    line.append((value, direction, sign, grid[before], grid[after]))
            line.sort(key=lambda peak: -peak[0])
            highest += line[:1] if budget.lines else []
            peaks += line[1:] if budget.lines else line
    peaks.sort(key=lambda peak: -peak[0])
    for _, direction, sign, low, high in highest + peaks[: budget.peaks]:
        _golden(partial(_single, trials, direction, sign * units[direction]), low, high, budget.steps)


def _single(trials: _Trials, direction: Direction, scale: float, step: float) -> float:
    return trials(direction, [scale * step])[0]


def _grid(budget: Budget, reach: float) -> list[float]:
    """Pushes in radii, ascending: from 1e-4 to ``reach``, dense where rules decide."""
    last = math.log10(reach)
    powers: list[float] = []
    for low, high, density in ((-4.0, -2.0, budget.coarse), (-2.0, 1.0, budget.fine), (1.0, last, budget.coarse)):
        count = max(math.ceil((high - low) * density), 1)
        powers.extend(low + (high - low) * place / count for place in range(count))
    return [10.0**power for power in powers if power < last - 1e-9] + [reach]


def _golden(value: Callable[[float], float], low: float, high: float, steps: int) -> None:
    """Golden section on the logarithm between ``low`` and ``high``; the trials remember what it saw."""
    a, b = math.log(low), math.log(high)
    if not a < b:
        return
    left, right = b - _SHRINK * (b - a), a + _SHRINK * (b - a)
    at_left, at_right = value(math.exp(left)), value(math.exp(right))
    for _ in range(steps):
        if at_left >= at_right:
            b, right, at_right = right, left, at_left
            left = b - _SHRINK * (b - a)
            at_left = value(math.exp(left))
        else:
            a, left, at_left = left, right, at_right
            right = a + _SHRINK * (b - a)
            at_right = value(math.exp(right))
