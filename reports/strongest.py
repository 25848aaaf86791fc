"""For each stack the strongest attack that was found, by kind of harm, beside what the stack costs without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .costs import loss_span
from .document import Audit, drop_of, headline, number_of, score_of, table
from .format import MISSING, points, quantity, ratio
from .overview import Anchors, Cell, make_cell
from .severity import advantage, category_of, measured, unproven
from .shares import shares

HARM = "Integrity"
ALIKE = 1.1
"""Attacks are compared if their share is at most so many times the commonest one of their kind."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The attack that does most harm of a kind on a stack.

    Attributes:
        attack: label.
        cell: its badge and its value.
        least: lower end of the value's interval.
        share: of compromised identities.
        adaptive: whether it uses what it knows of the stack.
        others: how many further attacks of the kind were measured on the stack.
    """

    attack: str
    cell: Cell
    least: str
    share: str
    adaptive: bool
    others: int


@dataclass(frozen=True, kw_only=True)
class StackRow:
    """One stack: a finding or nothing for each kind, and its price."""

    stack: str
    anchor: str
    found: tuple[Found | None, ...]
    drop: str
    drop_span: str
    seconds: str
    bound: str


@dataclass(frozen=True, kw_only=True)
class Strongest:
    """The table."""

    kinds: tuple[str, ...]
    rows: tuple[StackRow, ...]


def strongest(audit: Audit, anchors: Anchors) -> Strongest | None:
    """The table of the attacks on integrity; ``None`` without a measured one.

    An attack with more identities does more harm, whatever it is: those with a larger share than the commonest of their
    kind are left to the breakdown curves.
    """
    kinds: dict[str, list[str]] = {}
    for label, entry in audit.attacks.items():
        if category_of(entry) == HARM:
            kinds.setdefault(str(entry.get("judge") or ""), []).append(label)
    kinds = {kind: attacks for kind, attacks in kinds.items() if any(_measured(audit, a) for a in attacks)}
    if not kinds:
        return None
    most = {kind: _commonest(audit, attacks) for kind, attacks in kinds.items()}
    kept = {kind: [a for a in attacks if _share(audit, a) <= ALIKE * most[kind]] for kind, attacks in kinds.items()}
    rows = tuple(_row(audit, anchors, stack, kept) for stack in audit.stacks)
    return Strongest(kinds=tuple(_title(audit, k, kept[k], cut=kept[k] != kinds[k]) for k in kinds), rows=rows)


def _share(audit: Audit, attack: str) -> float:
    return max(shares(audit, attack), default=0.0)


def _commonest(audit: Audit, attacks: list[str]) -> float:
    """The share that most attacks of a kind have; the largest of them if there are several."""
    counts = Counter(_share(audit, attack) for attack in attacks if shares(audit, attack))
    return max(counts, key=lambda share: (counts[share], share), default=1.0)


def _measured(audit: Audit, attack: str) -> bool:
    return any(measured(audit.finding(attack, stack)) for stack in audit.stacks)


def _title(audit: Audit, kind: str, attacks: list[str], *, cut: bool) -> str:
    """The judge and what it counts; and up to which share, if attacks with more of them were left out."""
    names = (headline(audit.finding(a, s))[0] for a in attacks for s in audit.stacks)
    counted = next((name for name in names if name), "")
    said = f"{kind}: {counted.replace('_', ' ')}" if counted else kind
    largest = max(_share(audit, attack) for attack in attacks)
    return f"{said}, up to {quantity(largest, 'share')} compromised" if cut else said


def _row(audit: Audit, anchors: Anchors, stack: str, kinds: Mapping[str, list[str]]) -> StackRow:
    used = audit.utilities.get(stack, {})
    lost, unit = table(used, "accuracy_drop"), score_of(used)[2]
    slower, bound = number_of(used, "ratio_seconds"), number_of(audit.stacks[stack], "breakdown")
    return StackRow(
        stack=stack,
        anchor=anchors.stack(stack),
        found=tuple(_found(audit, anchors, stack, attacks) for attacks in kinds.values()),
        drop=points(drop_of(used), unit),
        drop_span=loss_span(number_of(lost, "low"), number_of(lost, "high"), unit),
        seconds=MISSING if slower is None else ratio(slower),
        bound=MISSING if bound is None else quantity(bound, "share"),
    )


def _found(audit: Audit, anchors: Anchors, stack: str, attacks: list[str]) -> Found | None:
    """By the advantage, which counts harm from the honest federation of the same stack."""
    gains = {a: g for a in attacks if measured(audit.finding(a, stack)) and (g := advantage(audit.finding(a, stack)))}
    proven = [a for a in gains if not unproven(audit, a, stack)] or list(gains)
    if not proven:
        return None
    worst = max(proven, key=lambda a: gains[a])
    finding = audit.finding(worst, stack)
    _, metric = headline(finding)
    share = number_of(table(finding, "cost"), "compromised")
    return Found(
        attack=worst,
        cell=make_cell(audit, anchors, worst, stack),
        least=quantity(number_of(metric, "low"), str(metric.get("unit") or "")),
        share="" if share is None else quantity(share, "share"),
        adaptive=finding.get("adaptive") is True,
        others=len(gains) - 1,
    )
