"""The section of one attack: its threat model, its evidence over all stacks, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .advice import caveats, helps, ranged
from .charts import Chart, Scale, Series, Strip, Tick, axis, curves, domain, plain_roc, roc, strip
from .costs import loss_span
from .detection import Detection, detection
from .document import Audit, headline, number_of, rows, score_of, table, texts
from .exhibits import Gallery, galleries
from .format import brief, flow, interval, pairs, points, quantity
from .images import Budget
from .ledger import Ledger, ledgers
from .overview import Anchors, Cell, make_cell
from .sentences import Reading, readings
from .severity import (
    STATUSES,
    badness,
    category_of,
    measured,
)
from .shares import compromised

STRIP = (8.0, 272.0)
MOST_EXPOSED = 5
LINE_STYLES = 6
"""Lines of one chart that can be told apart."""
NAMES = {"accuracy_drop": "attack impact (accuracy drop)", "success@1e-2": "copied (success@1e-2)"}
"""Metrics that the literature calls otherwise."""
SPAN = (("first", "starts"), ("last", "ends"))
MOST_CURVES = 12
"""Small charts of one attack; the curves of further stacks are in the result file only."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One stack's row under an attack; ``metric`` is named where it is judged by another one than the section."""

    stack: str
    stack_anchor: str
    cell: Cell
    metric: str
    strip: Strip | None
    advantage: str
    n: str
    seeds: tuple[tuple[str, str], ...]
    accuracy: str
    drop: str
    reason: str
    has_detail: bool


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric beside the headline: for each stack that was measured its value, its interval and its floor."""

    name: str
    about: str
    cells: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """Everything about one attack."""

    label: str
    anchor: str
    category: str
    worst: Cell | None
    entry: Mapping[str, Any]
    threat: tuple[tuple[str, str], ...]
    metric: str
    description: str
    resolution: str
    ticks: tuple[Tick, ...]
    evidence: tuple[Evidence, ...]
    metrics: tuple[MetricRow, ...]
    ledgers: tuple[Ledger, ...]
    galleries: tuple[Gallery, ...]
    readings: tuple[Reading, ...]
    roc: Chart | None
    compromised: str
    detection: Detection | None
    curves: tuple[tuple[str, Chart], ...]
    curves_left_out: int
    exposed: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    helps: tuple[str, ...]
    caveats: tuple[str, ...]
    taxonomy: tuple[Mapping[str, Any], ...]
    unnamed: tuple[str, ...]
    paper: str
    line: str
    checks: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...]


def sections(audit: Audit, anchors: Anchors, budget: Budget, most_curves: int = MOST_CURVES) -> tuple[Section, ...]:
    """The sections of all attacks, worst first; the undefended galleries take from the budget before the rest."""
    order = sorted(audit.attacks, key=lambda a: min((badness(audit.finding(a, s)) for s in audit.stacks), default=()))
    shown = galleries(audit, order, budget)
    return tuple(_section(audit, anchors, attack, shown.get(attack, ()), most_curves) for attack in order)


def _section(audit: Audit, anchors: Anchors, attack: str, shown: tuple[Gallery, ...], most_curves: int) -> Section:
    entry = audit.attacks[attack]
    found = {stack: audit.finding(attack, stack) for stack in audit.stacks}
    name, metric = next(((n, m) for f in found.values() for n, m in [headline(f)] if n), ("", {}))
    unit = str(metric.get("unit") or "")
    scale = _scale(found, *STRIP)
    worst = min((s for s in found if measured(found[s])), key=lambda s: badness(found[s]), default=None)
    taxonomy = {(t.get("framework"), t.get("id")): t for f in (entry, *found.values()) for t in rows(f, "taxonomy")}
    paper = table(entry, "paper")
    charts = _curves(attack, found)
    active = bool(entry.get("active")) and not entry.get("observes")
    return Section(
        label=attack,
        anchor=anchors.attack(attack),
        category=category_of(entry),
        worst=make_cell(audit, anchors, attack, worst) if worst is not None else None,
        entry=entry,
        threat=_threat(entry),
        metric=name.replace("_", " "),
        description=str(metric.get("description") or ""),
        resolution=quantity(number_of(metric, "resolution"), unit) if number_of(metric, "resolution") else "",
        ticks=axis(scale, unit, 5),
        evidence=tuple(_evidence(audit, anchors, attack, stack, scale, name) for stack in found),
        metrics=_metrics({s: f for s, f in found.items() if measured(f)}),
        ledgers=ledgers(audit, attack),
        galleries=shown,
        readings=readings(audit, attack),
        roc=_suspicion(attack, found) if active else _roc(audit, attack, found),
        compromised=compromised(audit, attack),
        detection=detection(attack, found) if active else None,
        curves=charts[:most_curves],
        curves_left_out=len(charts[most_curves:]),
        exposed=_exposed(audit, found),
        helps=helps(audit, attack, found),
        caveats=caveats(audit, attack, found),
        taxonomy=tuple(t for t in taxonomy.values() if t.get("id") and t.get("strength") != "none"),
        unnamed=tuple(dict.fromkeys(str(t.get("framework")) for t in taxonomy.values() if not t.get("id"))),
        paper=", ".join(str(paper[k]) for k in ("title", "authors", "venue", "where") if paper.get(k)),
        checks=tuple((s, tuple(made)) for s, f in found.items() if (made := rows(f, "checks"))),
        line=flow({"name": entry.get("name") or attack, **table(entry, "parameters")}),
    )


def _threat(entry: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    acts = "takes the place of clients" if entry.get("active") else "reads only, and changes nothing"
    acts += " and reads what they see" if entry.get("observes") else ""
    if not entry.get("active") and "model control" in texts(entry, "capabilities"):
        acts = "sends chosen clients models of its own making and reads what comes back"
    said = [
        ("Position", str(entry.get("position") or "")),
        ("Acts", f"{acts}, at {entry['stage']}" if entry.get("stage") else acts),
        ("Can", ", ".join(texts(entry, "capabilities"))),
        ("Knows besides", ", ".join(texts(entry, "knowledge")) or "the public facts, and nothing else"),
        ("Judged by", str(entry.get("judge") or "")),
        ("Parameters", pairs(table(entry, "parameters"))),
        ("Cost", str(entry.get("cost") or "")),
    ]
    return tuple((name, text) for name, text in said if text)


def _scale(found: Mapping[str, Mapping[str, Any]], start: float, stop: float) -> Scale:
    metrics = [headline(f)[1] for f in found.values()]
    low, high = domain([number_of(m, k) for m in metrics for k in ("value", "low", "high", "floor", "ceiling")])
    return Scale(low, high, start, stop)


def _evidence(audit: Audit, anchors: Anchors, attack: str, stack: str, scale: Scale, usual: str) -> Evidence:
    finding = audit.finding(attack, stack)
    name, metric = headline(finding)
    unit = str(metric.get("unit") or "")
    value = number_of(metric, "value")
    low, high, floor, ceiling = (number_of(metric, k) for k in ("low", "high", "floor", "ceiling"))
    reason, has_detail = brief(str(finding.get("reason") or STATUSES.get(str(finding.get("status")), "")))
    scored, accuracy, in_unit = score_of(table(finding, "utility"))
    honest = score_of(audit.utilities.get(stack, {}))[1]
    shown = ranged(accuracy, in_unit)
    return Evidence(
        stack=stack,
        stack_anchor=anchors.stack(stack),
        cell=make_cell(audit, anchors, attack, stack),
        metric=_name(name) if name != usual else "",
        strip=strip(scale, value, low, high, floor, ceiling, unit) if measured(finding) and value is not None else None,
        advantage=ranged(metric, "share", "advantage"),
        n=str(metric["n"]) if metric.get("n") is not None else "",
        seeds=tuple((seed, quantity(v, unit)) for seed, v in table(finding, "by_seed").items()),
        accuracy=shown if scored == "accuracy" or not shown else f"{scored} {shown}",
        drop=_impact(finding, in_unit) or _lost(number_of(accuracy, "value"), number_of(honest, "value"), in_unit),
        reason=reason,
        has_detail=has_detail,
    )


def _lost(value: float | None, honest: float | None, unit: str) -> str:
    """What an attack took from the honest federation's score under the same stack; nothing where it only reads."""
    if value is None or honest is None or value == honest:
        return ""
    return f"{points(honest - value, unit)} from {quantity(honest, unit)}"


def _name(metric: str) -> str:
    return NAMES.get(metric, metric.replace("_", " "))


def _impact(finding: Mapping[str, Any], unit: str) -> str:
    """Attack impact: the accuracy lost to the attack, paired by seed and example, with its interval."""
    lost = table(table(finding, "metrics"), "accuracy_drop")
    value = number_of(lost, "value")
    if value is None:
        return ""
    return f"impact {points(value, unit)} ({loss_span(number_of(lost, 'low'), number_of(lost, 'high'), unit)})"


def _metrics(found: Mapping[str, Mapping[str, Any]]) -> tuple[MetricRow, ...]:
    """Every metric but the headline, by stack; all, where stacks are judged by different ones."""
    by_stack = {stack: table(finding, "metrics") for stack, finding in found.items()}
    heads = {headline(finding)[0] for finding in found.values()}
    left_out = heads if len(heads) == 1 else set()
    names = dict.fromkeys(n for metrics in by_stack.values() for n in metrics if n not in left_out)
    made = []
    for name in names:
        known = [table(metrics, name) for metrics in by_stack.values()]
        about = next((str(m["description"]) for m in known if m.get("description")), "")
        made.append(MetricRow(name=_name(name), about=about, cells=tuple(map(_metric_cell, known))))
    return tuple(made)


def _metric_cell(metric: Mapping[str, Any]) -> tuple[str, str, str]:
    unit = str(metric.get("unit") or "")
    floor = number_of(metric, "floor")
    span = interval(number_of(metric, "low"), number_of(metric, "high"), unit)
    return quantity(number_of(metric, "value"), unit), span, f"floor {quantity(floor, unit)}" if floor else ""


def _roc(audit: Audit, attack: str, found: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """The undefended curve, the worst defended one and the best defended one."""
    with_roc = {s: r for s, f in found.items() if (r := table(table(f, "exhibits"), "roc")).get("fpr") and r.get("tpr")}
    defended = sorted((s for s in with_roc if s != audit.baseline), key=lambda s: badness(found[s]))
    chosen = [s for s in [audit.baseline, *defended[:1], *defended[-1:]] if s is not None and s in with_roc]
    if not chosen:
        return None
    resolution = min((x for s in chosen for x in with_roc[s]["fpr"] if x), default=0.01)
    return roc(
        [Series(s, with_roc[s]["fpr"], with_roc[s]["tpr"]) for s in dict.fromkeys(chosen)],
        title=f"ROC of {attack}",
        smallest=min(0.1, max(1e-4, resolution)),
    )


def _suspicion(attack: str, found: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """How well the scores of the stacks tell attackers from the honest, as many stacks as lines can be told apart."""
    with_roc = {s: r for s, f in found.items() if (r := table(table(f, "exhibits"), "roc")).get("fpr") and r.get("tpr")}
    areas = {s: number_of(table(table(found[s], "metrics"), "detection_auc"), "value") or 0.0 for s in with_roc}
    chosen = sorted(with_roc, key=lambda s: -areas[s])[:LINE_STYLES]
    series = [Series(s, with_roc[s]["fpr"], with_roc[s]["tpr"]) for s in chosen]
    return plain_roc(series, title=f"Suspicion under {attack}") if series else None


def _curves(attack: str, found: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, Chart], ...]:
    charts = []
    for stack, finding in found.items():
        named = table(table(finding, "exhibits"), "curves")
        series = [Series(n, c.get("x") or [], c.get("y") or []) for n, c in named.items() if isinstance(c, Mapping)]
        if series:
            unit = "share" if all(0 <= y <= 1 for s in series for y in s.y if y is not None) else ""
            span = table(table(finding, "exhibits"), "acting")
            known = [(at, f"attack {what}") for k, what in SPAN if (at := number_of(span, k)) is not None]
            charts.append(
                (stack, curves(series, title=f"{attack} on {stack}", x_label="round", unit=unit, events=known))
            )
    return tuple(charts)


def _exposed(
    audit: Audit, found: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Whom the attack exposed most: on the control, and on the stack on which it does most harm otherwise."""
    named = {s: rows(f, "exposed") for s, f in found.items() if rows(f, "exposed")}
    others = sorted((s for s in named if s != audit.baseline), key=lambda s: badness(found[s]))
    shown = [s for s in (audit.baseline, *others[:1]) if s is not None and s in named]
    return tuple(
        (stack, tuple((str(one.get("unit")), str(one.get("text") or "")) for one in named[stack][:MOST_EXPOSED]))
        for stack in shown
    )
