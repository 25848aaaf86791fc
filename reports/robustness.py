"""Robust accuracy of every stack: the worst case of each input over all evasion attacks, by size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .charts import Chart, Series, curves
from .clients import ByClient, by_client
from .document import Audit, number_of, rows, table, texts
from .format import interval, quantity, significant
from .overview import Anchors

LINE_STYLES = 6
NORMS = {
    "linf": "largest change of one input value",
    "l2": "Euclidean length of the change",
    "l1": "sum of the changes of all input values",
}


@dataclass(frozen=True, kw_only=True)
class StackRow:
    """One stack: accuracy and its interval at each size; ``doubted`` if some check says that it hides its gradients.

    ``inputs`` counts those of all seeds that every attack was run on. ``bars`` are those of the smallest perturbations,
    ``marks`` the places of the sizes among them in percent, and ``far`` says how many lie beyond.
    """

    stack: str
    anchor: str
    attacks: tuple[str, ...]
    inputs: str
    points: tuple[tuple[str, str], ...]
    held: str
    doubted: bool
    bars: tuple[tuple[float, float, str], ...]
    marks: tuple[float, ...]
    largest: str
    far: str


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """One norm: a table, the curves of as many stacks as can be told apart, and what was found how far away.

    Attributes:
        norm: ``linf`` or ``l2``.
        about: what it measures.
        sizes: at which accuracy is stated.
        rows: of the stacks.
        chart: accuracy over size, if there is more than one.
        left_out: stacks that the chart leaves out.
        seekers: attacks that sought the nearest points, so that the chart shows every size.
        clients: accuracy by client, where clients are told apart.
    """

    norm: str
    about: str
    sizes: tuple[str, ...]
    rows: tuple[StackRow, ...]
    chart: Chart | None
    left_out: int
    seekers: tuple[str, ...]
    clients: ByClient | None


def robustness(audit: Audit, anchors: Anchors) -> tuple[Robustness, ...]:
    """A section for each norm in which some attack was measured."""
    found = [row for row in rows(audit.raw, "robustness") if str(row.get("stack")) in audit.stacks]
    norms = dict.fromkeys(str(row.get("norm")) for row in found)
    return tuple(_norm(audit, anchors, norm, [r for r in found if str(r.get("norm")) == norm]) for norm in norms)


def _norm(audit: Audit, anchors: Anchors, norm: str, found: list[Mapping[str, Any]]) -> Robustness:
    first = rows(found[0], "points")
    series = []
    seekers = tuple(dict.fromkeys(name for row in found for name in texts(row, "seekers")))
    for row in found:
        points = rows(row, "curve") or rows(row, "points")
        xs, ys = ([number_of(p, key) for p in points] for key in ("size", "value"))
        series.append(Series(str(row.get("stack")), xs, ys))
    chart = None
    if seekers or len(first) > 2:
        title = f"Accuracy under attack by size ({norm})"
        chart = curves(series[:LINE_STYLES], title=title, x_label=f"size of the perturbation ({norm})")
    return Robustness(
        norm=norm,
        about=NORMS.get(norm, norm),
        sizes=tuple(significant(number_of(point, "size")) for point in first),
        rows=tuple(_row(audit, anchors, row) for row in found),
        chart=chart,
        left_out=len(series[LINE_STYLES:]) if chart else 0,
        seekers=seekers,
        clients=by_client(audit, anchors, found),
    )


def _row(audit: Audit, anchors: Anchors, row: Mapping[str, Any]) -> StackRow:
    stack = str(row.get("stack"))
    far = table(row, "distances")
    inputs, held = number_of(row, "inputs") or 0, number_of(far, "held") or 0
    attacks = tuple(texts(row, "attacks"))
    doubted = any(c.get("passed") is False for a in attacks for c in rows(audit.finding(a, stack), "checks"))
    return StackRow(
        stack=stack,
        anchor=anchors.stack(stack),
        attacks=attacks,
        inputs=significant(number_of(row, "inputs")) if inputs else "",
        points=tuple(
            (
                quantity(number_of(point, "value"), "share"),
                interval(number_of(point, "low"), number_of(point, "high"), "share"),
            )
            for point in rows(row, "points")
        ),
        held=quantity(held / inputs, "share") if inputs else "",
        doubted=doubted,
        bars=_bars(far),
        marks=_marks(row, number_of(far, "largest") or 0.0),
        largest=significant(number_of(far, "largest")),
        far=str(int(beyond)) if (beyond := number_of(far, "beyond")) else "",
    )


def _marks(row: Mapping[str, Any], largest: float) -> tuple[float, ...]:
    sizes = [size for point in rows(row, "points") if (size := number_of(point, "size"))]
    return tuple(round(100 * size / largest, 1) for size in sizes if size < largest)


def _bars(far: Mapping[str, Any]) -> tuple[tuple[float, float, str], ...]:
    """Place, height (both in percent) and words of each bar of the histogram."""
    counts = [int(count) for count in far.get("counts") or ()]
    largest, most = number_of(far, "largest") or 0.0, max(counts, default=0)
    if not most:
        return ()
    width = largest / len(counts)
    return tuple(
        (
            round(100 * place / len(counts), 2),
            round(100 * count / most, 1),
            f"{count} between {significant(place * width)} and {significant((place + 1) * width)}",
        )
        for place, count in enumerate(counts)
    )
