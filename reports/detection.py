"""What each stack noticed of one attack: rates, suspicion, delay, and whom it dropped among the honest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .charts import Chart, Series, bar, curves
from .document import number_of, rows, table
from .format import interval, quantity

COLUMNS = (
    ("detection_tpr", "Attackers dropped"),
    ("detection_fpr", "Honest dropped"),
    ("detection_auc", "AUC of suspicion"),
    ("detection_tpr@0.05", "Caught at 5% false alarms"),
    ("detection_first", "First dropped after"),
    ("detection_half", "Half dropped after"),
    ("honest_harmed", "Honest harmed"),
)
GROUPS = (("class", "by most frequent class"), ("third", "by number of examples"), ("training", "by training"))
MOST_CHARTS = 12


@dataclass(frozen=True, kw_only=True)
class Noticed:
    """One stack: a text with its interval and its floor for each column."""

    stack: str
    cells: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Share:
    """Of one group of honest clients the share dropped."""

    group: str
    text: str
    span: str
    length: float
    clients: int


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """Shares dropped of the groups of one kind on one stack, with what the worst group stands against."""

    stack: str
    by: str
    shares: tuple[Share, ...]
    gap: str


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Everything that the section of an attack shows of detection."""

    columns: tuple[str, ...]
    stacks: tuple[Noticed, ...]
    charts: tuple[tuple[str, Chart], ...]
    fairness: tuple[Fairness, ...]
    silent: tuple[str, ...]


def detection(attack: str, found: Mapping[str, Mapping[str, Any]]) -> Detection | None:
    """What the stacks noticed; ``None`` if no stack dropped or suspected anybody.

    Args:
        attack: label.
        found: its finding on each stack.
    """
    alert = {stack: finding for stack, finding in found.items() if _alert(finding)}
    if not alert:
        return None
    kept = [(key, title) for key, title in COLUMNS if any(table(f, "metrics").get(key) for f in alert.values())]
    charts = tuple((stack, chart) for stack, f in alert.items() if (chart := _chart(attack, stack, f)) is not None)
    quiet = tuple(s for s, f in found.items() if s not in alert and table(f, "metrics").get("detection_fpr"))
    return Detection(
        columns=tuple(title for _, title in kept),
        stacks=tuple(Noticed(stack=s, cells=tuple(_cell(f, key) for key, _ in kept)) for s, f in alert.items()),
        charts=charts[:MOST_CHARTS],
        fairness=tuple(
            one for stack, f in alert.items() for by, words in GROUPS for one in _fairness(stack, f, by, words)
        ),
        silent=quiet,
    )


def _alert(finding: Mapping[str, Any]) -> bool:
    scored = bool(table(finding, "metrics").get("detection_auc"))
    return scored or bool(table(table(finding, "exhibits"), "detection"))


def _cell(finding: Mapping[str, Any], key: str) -> tuple[str, str, str]:
    metric = table(table(finding, "metrics"), key)
    if not metric:
        return "—", "", ""
    unit = str(metric.get("unit") or "")
    value, ceiling = number_of(metric, "value"), number_of(metric, "ceiling")
    if unit == "rounds" and value is not None and value == ceiling:
        return "never", "", ""
    floor = number_of(metric, "floor")
    shown = f"{quantity(floor, unit)} with no attack" if key == "detection_fpr" and floor else ""
    span = interval(number_of(metric, "low"), number_of(metric, "high"), unit)
    return quantity(value, unit), span.removesuffix(" rounds"), shown


def _chart(attack: str, stack: str, finding: Mapping[str, Any]) -> Chart | None:
    by_round = table(table(table(finding, "exhibits"), "detection"), "rounds")
    if not by_round.get("x"):
        return None
    series = [Series(f"{side} dropped", by_round["x"], by_round.get(side) or []) for side in ("attackers", "honest")]
    return curves(series, title=f"Dropped by {stack} under {attack}", x_label="round")


def _fairness(stack: str, finding: Mapping[str, Any], by: str, words: str) -> list[Fairness]:
    groups = [row for row in rows(table(table(finding, "exhibits"), "detection"), "groups") if row.get("by") == by]
    known = [(row, value) for row in groups if (value := number_of(row, "value")) is not None]
    if len(known) < 2:
        return []
    overall = number_of(table(table(finding, "metrics"), "detection_fpr"), "value")
    worst, worst_value = max(known, key=lambda pair: pair[1])
    gap = f"largest: {worst.get('group')}, {quantity(worst_value, 'share')}"
    gap += f", against {quantity(overall, 'share')} of all" if overall is not None else ""
    shares = tuple(
        Share(
            group=str(row.get("group")),
            text=quantity(value, "share"),
            span=interval(number_of(row, "low"), number_of(row, "high"), "share"),
            length=bar(value, 1.0),
            clients=int(number_of(row, "clients") or 0),
        )
        for row, value in known
    )
    return [Fairness(stack=stack, by=words, shares=shares, gap=gap)]
