"""What protection costs: leakage against accuracy and bytes, one picture per family of attacks that read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .charts import Scale, Tick, axis
from .document import Audit, headline, number_of, score_of
from .format import MISSING, interval, quantity, ratio
from .overview import Anchors
from .severity import CLAIMS, advantage, category_of, rank, unproven

SIZE = (360, 300)
FRAME = (50.0, 14.0, 330.0, 252.0)
SMALLEST, LARGEST = 4.0, 13.0
"""Radius in pixels of a dot whose upload is as large as without defenses, and of one 64 times as large or more."""
TWIN = 13.0
"""Pixels between two numbers below which the second is set beside, not on, its dot."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One stack in the picture of one family.

    Attributes:
        number: its label in the picture, counted from 1.
        x: pixel of the accuracy.
        y: pixel of the advantage of the worst attack.
        spans: ``(x from, x to, y from, y to)`` pixels of the two intervals.
        radius: in pixels, grows with the logarithm of the bytes uploaded.
        best: whether no other stack leaks less at no less accuracy.
        label: pixels of the number.
        outside: whether the number stands beside its dot.
    """

    number: int
    stack: str
    anchor: str
    attack: str
    x: float
    y: float
    spans: tuple[float, float, float, float]
    radius: float
    best: bool
    label: tuple[float, float]
    outside: bool
    leakage: str
    metric: str
    accuracy: str
    upload: str
    seconds: str


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """The picture of one family."""

    family: str
    points: tuple[Point, ...]
    line: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    score: str
    description: str
    left_out: tuple[str, ...]

    width: int = SIZE[0]
    height: int = SIZE[1]
    frame: tuple[float, float, float, float] = FRAME


def frontiers(audit: Audit, anchors: Anchors) -> tuple[Frontier, ...]:
    """One picture per family of confidentiality, in the order of the file; a family with one dot has none."""
    families: dict[str, list[str]] = {}
    for label, entry in audit.attacks.items():
        if category_of(entry) in ("Confidentiality", CLAIMS):
            families.setdefault(str(entry.get("family") or ""), []).append(label)
    made = (_frontier(audit, anchors, family, attacks) for family, attacks in families.items())
    return tuple(one for one in made if len(one.points) > 1)


@dataclass(frozen=True)
class _Dot:
    stack: str
    attack: str
    leak: tuple[float, float, float]
    score: tuple[float, float, float]


def _frontier(audit: Audit, anchors: Anchors, family: str, attacks: Sequence[str]) -> Frontier:
    dots, left_out = [], []
    for stack in audit.stacks:
        dot, why = _dot(audit, attacks, stack)
        if dot is not None:
            dots.append(dot)
        else:
            left_out.append(f"{stack} ({why})")
    name, _, unit = score_of(next((audit.utilities[d.stack] for d in dots if d.stack in audit.utilities), {}))
    low, high = _range([v for d in dots for v in d.score])
    across, down = Scale(low, high, FRAME[0], FRAME[2]), Scale(0.0, 1.0, FRAME[3], FRAME[1])
    best = {d.stack for d in dots if not any(_dominates(o, d) for o in dots)}
    points: list[Point] = []
    for number, dot in enumerate(dots, start=1):
        points.append(_point(audit, anchors, dot, number, across, down, points, best=dot.stack in best, unit=unit))
    edge = sorted((p.x, p.y) for p in points if p.best)
    named = ", ".join(p.stack for p in points if p.best)
    return Frontier(
        family=family,
        points=tuple(points),
        line=" ".join(f"{x:g},{y:g}" for x, y in edge),
        x_ticks=axis(across, unit, 4),
        y_ticks=axis(down, "", 5),
        score=name,
        description=f"No other tested stack leaks less at no less {name} than: {named}",
        left_out=tuple(left_out),
    )


def _dot(audit: Audit, attacks: Sequence[str], stack: str) -> tuple[_Dot | None, str]:
    """The worst attack of the family on the stack, or why there is no dot."""
    _, estimate, _ = score_of(audit.utilities.get(stack, {}))
    value = number_of(estimate, "value")
    if value is None:
        return None, "not trained"
    score = (value, number_of(estimate, "low") or value, number_of(estimate, "high") or value)
    gains = {a: g for a in attacks if (g := advantage(audit.finding(a, stack))) is not None}
    proven = {a: g for a, g in gains.items() if not unproven(audit, a, stack)}
    if not proven:
        return None, "no attack of this family gave evidence"
    worst = min(proven, key=lambda a: (rank(_severity(audit, a, stack)), -proven[a][2]))
    return _Dot(stack, worst, proven[worst], score), ""


def _severity(audit: Audit, attack: str, stack: str) -> str | None:
    severity = audit.finding(attack, stack).get("severity")
    return str(severity) if severity is not None else None


def _dominates(one: _Dot, other: _Dot) -> bool:
    at_least = one.leak[0] <= other.leak[0] and one.score[0] >= other.score[0]
    return at_least and (one.leak[0] < other.leak[0] or one.score[0] > other.score[0])


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), 0.01)
    return low - margin, high + margin


def _point(
    audit: Audit,
    anchors: Anchors,
    dot: _Dot,
    number: int,
    across: Scale,
    down: Scale,
    before: Sequence[Point],
    *,
    best: bool,
    unit: str,
) -> Point:
    used: Mapping[str, object] = audit.utilities.get(dot.stack, {})
    finding = audit.finding(dot.attack, dot.stack)
    _, metric = headline(finding)
    upload, seconds = number_of(used, "ratio_upload"), number_of(used, "ratio_seconds")
    x, y = across.place(dot.score[0]), down.place(dot.leak[0])
    near = sum(math.hypot(x - p.x, y - p.y) < TWIN for p in before)
    blocked = finding.get("status") == "blocked"
    return Point(
        number=number,
        stack=dot.stack,
        anchor=anchors.pair(dot.attack, dot.stack),
        attack=dot.attack,
        x=x,
        y=y,
        spans=(
            across.place(dot.score[1]),
            across.place(dot.score[2]),
            down.place(dot.leak[1]),
            down.place(dot.leak[2]),
        ),
        radius=_radius(upload),
        best=best,
        label=(x, y) if not near else (round(x + 17, 1), round(y - 10 + 9 * near, 1)),
        outside=near > 0,
        leakage="blocked" if blocked else _span(dot.leak, "share"),
        metric="" if blocked else quantity(number_of(metric, "value"), str(metric.get("unit") or "")),
        accuracy=_span(dot.score, unit),
        upload=ratio(upload) if upload is not None else MISSING,
        seconds=ratio(seconds) if seconds is not None else MISSING,
    )


def _radius(upload: float | None) -> float:
    steps = math.log2(max(upload or 1.0, 1 / 64)) / 6
    return round(min(LARGEST, max(3.0, SMALLEST + 3 + (LARGEST - SMALLEST - 3) * steps)), 1)


def _span(values: tuple[float, float, float], unit: str) -> str:
    span = interval(values[1], values[2], unit)
    return quantity(values[0], unit) + (f" ({span})" if span else "")
