"""Breakdown curves: what one attack does to each stack as the share of compromised identities grows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import Scale, Tick, axis
from .document import Audit, headline, number_of, score_of, table
from .format import quantity
from .overview import Anchors
from .severity import measured, rank
from .shares import shares

SIZE = (300, 200)
FRAME = (44.0, 14.0, 290.0, 158.0)
SWEPT = ("fraction", "identities")
"""Parameters by which attacks of one curve may differ: how many identities the adversary has."""
FAR = 2.5
"""A bound further out than so many times the largest measured share is said and not drawn."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One measured point: pixels of the value and of its interval, and the words."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Track:
    """One quantity over the share; ``style`` counts the dash patterns."""

    name: str
    style: int
    line: str
    band: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One stack.

    Attributes:
        reference: the accuracy without defenses, as a faint line; empty on the control.
        bound: pixel of the share for which the stack's sources prove a bound, ``None`` where there is none in reach.
        assumed: pixel of the share for which its parameters are set.
        said: the two in words, and the share at which it was found broken.
    """

    stack: str
    anchor: str
    tracks: tuple[Track, ...]
    reference: str
    bound: float | None
    assumed: float | None
    said: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """All stacks under one attack."""

    title: str
    attacks: tuple[tuple[str, str, str], ...]
    panels: tuple[Panel, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    names: tuple[str, ...]
    description: str

    width: int = SIZE[0]
    height: int = SIZE[1]
    frame: tuple[float, float, float, float] = FRAME


@dataclass(frozen=True)
class _Point:
    share: float
    value: float
    low: float
    high: float


def breakdowns(audit: Audit, anchors: Anchors) -> tuple[Breakdown, ...]:
    """One per group of active attacks that differ in nothing but how many identities they have; two shares at least."""
    groups: dict[str, list[str]] = {}
    for label, entry in audit.attacks.items():
        if entry.get("active") and not entry.get("audits"):
            groups.setdefault(_key(entry), []).append(label)
    made = (_breakdown(audit, anchors, labels) for labels in groups.values() if len(labels) > 1)
    return tuple(one for one in made if one is not None)


def _key(entry: Mapping[str, Any]) -> str:
    said = {"name": entry.get("name"), "position": entry.get("position"), **table(entry, "parameters")}
    return json.dumps(_bare(said), sort_keys=True)


def _bare(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _bare(inner) for name, inner in value.items() if name not in SWEPT}
    return value


def _breakdown(audit: Audit, anchors: Anchors, attacks: Sequence[str]) -> Breakdown | None:
    known = {attack: found[-1] for attack in attacks if (found := shares(audit, attack))}
    if len(set(known.values())) < 2:
        return None
    ordered = sorted(known, key=lambda attack: known[attack])
    most = max(known.values())
    bounds = [b for s in audit.stacks.values() for k in ("breakdown", "assumed") if (b := number_of(s, k)) is not None]
    right = max([most, *(b for b in bounds if b <= FAR * most)])
    across = Scale(0.0, right * 1.04, FRAME[0], FRAME[2])
    down = Scale(0.0, 1.0, FRAME[3], FRAME[1])
    curves = {stack: _curves(audit, ordered, stack) for stack in audit.stacks}
    base = curves.get(audit.baseline or "", {})
    panels = tuple(
        _panel(audit, anchors, ordered, stack, found, base if stack != audit.baseline else {}, across, down)
        for stack, found in curves.items()
        if any(len(points) > 1 for points in found.values())
    )
    if not panels:
        return None
    names = tuple(dict.fromkeys(track.name for panel in panels for track in panel.tracks))
    return Breakdown(
        title=str(audit.attacks[ordered[0]].get("name") or ordered[0]),
        attacks=tuple((a, anchors.attack(a), quantity(known[a], "share")) for a in ordered),
        panels=panels,
        x_ticks=axis(across, "share", 5),
        y_ticks=axis(down, "share", 5),
        names=names,
        description=f"{' and '.join(names)} of each stack over the share of compromised identities",
    )


def _curves(audit: Audit, attacks: Sequence[str], stack: str) -> dict[str, list[_Point]]:
    """Points by quantity: the accuracy, and the headline where it is a share that says something else.

    What was found without an attack is the point at 0: the honest accuracy, and the floor of the headline.
    """
    accuracy: list[_Point] = []
    harm: list[_Point] = []
    name = ""
    honest = score_of(audit.utilities.get(stack, {}))
    start = _point(0.0, honest[1]) if honest[0] == "accuracy" else None
    for attack in attacks:
        finding = audit.finding(attack, stack)
        share = number_of(table(finding, "cost"), "compromised")
        if not measured(finding) or share is None:
            continue
        scored, found, _ = score_of(table(finding, "utility"))
        if scored == "accuracy" and (point := _point(share, found)) is not None:
            accuracy.append(point)
        name, metric = headline(finding)
        if metric.get("unit") == "share" and (point := _point(share, metric)) is not None:
            floor = number_of(metric, "floor")
            harm += [_Point(0.0, floor, floor, floor)] if not harm and floor is not None else []
            harm.append(point)
    curves = {"accuracy": [*([start] if start is not None else []), *accuracy]} if accuracy else {}
    pairs = zip(accuracy, harm[-len(accuracy) :], strict=False)
    if harm and not (accuracy and all(abs(a.value + h.value - 1.0) < 1e-6 for a, h in pairs)):
        curves[name.replace("_", " ")] = harm
    return curves


def _point(share: float, found: Mapping[str, Any]) -> _Point | None:
    value, low, high = (number_of(found, key) for key in ("value", "low", "high"))
    if value is None:
        return None
    return _Point(share, value, value if low is None else low, value if high is None else high)


def _panel(
    audit: Audit,
    anchors: Anchors,
    attacks: Sequence[str],
    stack: str,
    curves: Mapping[str, Sequence[_Point]],
    base: Mapping[str, Sequence[_Point]],
    across: Scale,
    down: Scale,
) -> Panel:
    entry = audit.stacks[stack]
    bound, assumed = number_of(entry, "breakdown"), number_of(entry, "assumed")
    said = [f"proved up to {quantity(bound, 'share')}"] if bound is not None else []
    said += [f"set up for {quantity(assumed, 'share')}"] if assumed is not None else []
    broken = _broken(audit, attacks, stack)
    said.append(
        f"high or critical from {quantity(broken, 'share')}" if broken is not None else "never high or critical"
    )
    return Panel(
        stack=stack,
        anchor=anchors.stack(stack),
        tracks=tuple(_track(name, k, points, across, down) for k, (name, points) in enumerate(curves.items())),
        reference=_line(base.get("accuracy", ()), across, down),
        bound=None if bound is None or bound > across.high else across.place(bound),
        assumed=None if assumed is None or assumed > across.high else across.place(assumed),
        said=tuple(said),
    )


def _broken(audit: Audit, attacks: Sequence[str], stack: str) -> float | None:
    """The smallest share at which the attack was found high or critical."""
    bad = [a for a in attacks if measured(f := audit.finding(a, stack)) and rank(f.get("severity")) <= rank("high")]
    found = [number_of(table(audit.finding(a, stack), "cost"), "compromised") for a in bad]
    return min((share for share in found if share is not None), default=None)


def _track(name: str, style: int, points: Sequence[_Point], across: Scale, down: Scale) -> Track:
    upper = [f"{across.place(p.share):g},{down.place(p.high):g}" for p in points]
    lower = [f"{across.place(p.share):g},{down.place(p.low):g}" for p in reversed(points)]
    return Track(
        name=name,
        style=style,
        line=_line(points, across, down),
        band=" ".join([*upper, *lower]),
        marks=tuple(
            Mark(
                x=across.place(p.share),
                y=down.place(p.value),
                low=down.place(p.low),
                high=down.place(p.high),
                text=f"{name} {quantity(p.value, 'share')} ({quantity(p.low, 'share')} to {quantity(p.high, 'share')}) "
                f"at {quantity(p.share, 'share')}",
            )
            for p in points
        ),
    )


def _line(points: Sequence[_Point], across: Scale, down: Scale) -> str:
    return " ".join(f"{across.place(p.share):g},{down.place(p.value):g}" for p in points)
