"""Geometry of the charts: numbers in, coordinates out; the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .format import plain, quantity

LONGEST_LINE = 120
"""Points kept of a line; more cannot be told apart at the size it is drawn."""


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels, linearly or on a logarithmic axis; what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def place(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        low, high, at = (self._unfold(v) for v in (self.low, self.high, value))
        share = 0.5 if high == low else (at - low) / (high - low)
        return round(self.start + (self.stop - self.start) * min(1.0, max(0.0, share)), 1)

    def _unfold(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Strip:
    """One row of a dot chart: a dot with its interval between floor and ceiling."""

    dot: float
    low: float | None
    high: float | None
    floor: float | None
    ceiling: float | None
    text: str


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``style`` counts the dash patterns and ``end`` is its last point."""

    name: str
    style: int
    points: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chart:
    """A line chart: frame, axes, lines, vertical marks, and the words for those who cannot see it."""

    width: int
    height: int
    frame: tuple[float, float, float, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    reference: str
    title: str
    description: str
    events: tuple[Tick, ...] = ()


@dataclass(frozen=True)
class Series:
    """Data of one line; a point without a number is left out."""

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """At most about ``count`` round numbers that cover ``[low, high]``.

    Example:
        >>> nice_ticks(0, 1)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * k, 12) for k in range(first, last + 1)]


def domain(values: Sequence[float | None]) -> tuple[float, float]:
    """The range of an axis that shows all values, and all of 0..1 if they lie inside it."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known:
        return 0.0, 1.0
    if min(known) >= 0 and max(known) <= 1:
        return 0.0, 1.0
    low, high = min(known), max(known)
    margin = (high - low or 1.0) * 0.04
    return low - margin, high + margin


def strip(
    scale: Scale, value: float, low: float | None, high: float | None, floor: float | None, ceiling: float | None,
    unit: str,
) -> Strip:  # fmt: skip
    """Place one measured number, its interval, its floor and its ceiling."""
    words = [quantity(value, unit)]
    if low is not None and high is not None:
        words.append(f"interval {plain(low, unit)} to {quantity(high, unit)}")
    words += [f"{n} {quantity(v, unit)}" for n, v in (("floor", floor), ("ceiling", ceiling)) if v is not None]
    low_at, high_at, floor_at, ceiling_at = (None if v is None else scale.place(v) for v in (low, high, floor, ceiling))
    return Strip(scale.place(value), low_at, high_at, floor_at, ceiling_at, ", ".join(words))


def axis(scale: Scale, unit: str, count: int = 5) -> tuple[Tick, ...]:
    """Ticks along a linear scale."""
    return tuple(Tick(scale.place(t), _tick_label(t, unit)) for t in nice_ticks(scale.low, scale.high, count))


def thin(points: Sequence[tuple[float, float]], most: int = LONGEST_LINE) -> list[tuple[float, float]]:
    """At most ``most`` points, evenly taken, with both ends kept."""
    if len(points) <= most:
        return list(points)
    return [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]


def curves(
    series: Sequence[Series], *, title: str, x_label: str, unit: str = "share", events: Sequence[tuple[float, str]] = ()
) -> Chart:
    """A chart of curves over rounds, with marks where something happened; those outside of the curves are left out."""
    width, height, frame = 300, 190, (44.0, 12.0, 292.0, 152.0)
    xs = [x for s in series for x in s.x if x is not None] or [0.0, 1.0]
    low, high = domain([y for s in series for y in s.y])
    across = Scale(min(xs), max(xs), frame[0], frame[2])
    down = Scale(low, high, frame[3], frame[1])
    ends = "; ".join(f"{s.name} ends at {quantity(s.y[-1], unit)}" for s in series if s.y)
    marked = tuple(Tick(across.place(x), name) for x, name in events if across.low < x < across.high)
    return Chart(
        width, height, frame, axis(across, "", 5), axis(down, unit, 5), x_label, "",
        _lines(series, across, down, "", unit), "", title, ends, marked,
    )  # fmt: skip


def roc(series: Sequence[Series], *, title: str, smallest: float) -> Chart:
    """A ROC chart on two logarithmic axes, where low false-positive rates can be seen; the diagonal is the floor.

    Args:
        series: true-positive rate over false-positive rate.
        title: what it is.
        smallest: lowest rate drawn; lower ones lie on the frame.
    """
    across = Scale(smallest, 1.0, _ROC[0], _ROC[2], log=True)
    down = Scale(smallest, 1.0, _ROC[3], _ROC[1], log=True)
    decades = range(math.ceil(math.log10(smallest) - 1e-9), 1)
    x_ticks = tuple(Tick(across.place(10.0**k), _tick_label(10.0**k, "share")) for k in decades)
    y_ticks = tuple(Tick(down.place(10.0**k), _tick_label(10.0**k, "share")) for k in decades)
    shown = [Series(s.name, *_visible(s, smallest)) for s in series]
    return _roc_chart(series, _lines(shown, across, down, "share", "share"), x_ticks, y_ticks, title, 0.01)


def plain_roc(series: Sequence[Series], *, title: str) -> Chart:
    """A ROC chart on linear axes, for samples too small to resolve low rates."""
    across, down = Scale(0.0, 1.0, _ROC[0], _ROC[2]), Scale(0.0, 1.0, _ROC[3], _ROC[1])
    lines = _lines(series, across, down, "share", "share")
    return _roc_chart(series, lines, axis(across, "share"), axis(down, "share"), title, 0.05)


_ROC = (50.0, 12.0, 320.0, 258.0)


def _roc_chart(
    series: Sequence[Series], lines: tuple[Line, ...], x_ticks: tuple[Tick, ...], y_ticks: tuple[Tick, ...],
    title: str, rate: float,
) -> Chart:  # fmt: skip
    caught = "; ".join(
        f"{s.name} {quantity(_at(s, rate), 'share')} true positives at {rate:.0%} false positives"
        for s in series
        if s.x
    )
    diagonal = f"M{_ROC[0]} {_ROC[3]}L{_ROC[2]} {_ROC[1]}"
    return Chart(
        340, 300, _ROC, x_ticks, y_ticks, "false-positive rate", "true-positive rate", lines, diagonal, title, caught
    )


def bar(value: float | None, largest: float, width: float = 90.0) -> float:
    """Length of a bar, at least a hairline for what is not zero."""
    if value is None or value <= 0 or largest <= 0:
        return 0.0
    return round(max(1.0, width * min(1.0, value / largest)), 1)


def _lines(series: Sequence[Series], across: Scale, down: Scale, x_unit: str, y_unit: str) -> tuple[Line, ...]:
    lines = []
    for style, s in enumerate(series):
        points = thin(_known(s))
        drawn = " ".join(f"{across.place(x):g},{down.place(y):g}" for x, y in points)
        words = tuple((quantity(x, x_unit), quantity(y, y_unit)) for x, y in thin(points, 12))
        lines.append(Line(s.name, style, drawn, words))
    return tuple(lines)


def _visible(series: Series, smallest: float) -> tuple[list[float], list[float]]:
    """The part of a ROC curve that a logarithmic axis can show, entered at its left edge."""
    points = _known(series)
    inside = [(x, y) for x, y in points if x >= smallest]
    entering = [y for x, y in points if x < smallest]
    if entering:
        inside.insert(0, (smallest, max(entering)))
    return [x for x, _ in inside], [y for _, y in inside]


def _at(series: Series, rate: float) -> float:
    return max((y for x, y in _known(series) if x <= rate), default=0.0)


def _known(series: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(series.x, series.y, strict=False) if x is not None and y is not None]


def _tick_label(value: float, unit: str) -> str:
    shown = value * 100 if unit == "share" else value
    return f"{shown:.6g}{'%' if unit == 'share' else ''}".replace("-", "−")
