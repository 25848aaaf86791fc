"""What stands on the first screen: coverage, category cards and the matrix of attacks and stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .document import Audit, drop_of, headline, number_of, rows, score_of, table, texts
from .format import interval, plain, points, quantity, ratio
from .severity import (
    CATEGORIES,
    CLAIMS,
    LETTERS,
    STATUSES,
    UNPROVEN,
    advantage,
    badness,
    category_of,
    control_failed,
    measured,
    needs_adaptive_caveat,
    rank,
    settled,
    unproven,
)
from .shares import compromised


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the matrix.

    Attributes:
        style: a severity, ``unproven``, or a status that carries no number.
        letter: of the severity, empty without one.
        value: headline number with its unit, or the status in words.
        span: the interval, without the unit.
        words: all of it in one sentence, for those who hear it.
        anchor: the row of evidence.
        marks: ``†`` (attack failed on its control), ``‡`` (only non-adaptive attacks), ``§`` (was given an oracle),
            ``¶`` (masked gradients).
    """

    style: str
    letter: str
    value: str
    span: str
    words: str
    anchor: str
    marks: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attack in the matrix."""

    label: str
    metric: str
    anchor: str
    cells: tuple[Cell, ...]
    oracles: tuple[str, ...] = ()
    compromised: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The attacks of one category."""

    category: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a stack fares in a category: its worst cell."""

    stack: str
    cell: Cell
    attack: str
    price: str = ""
    alike: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Card:
    """A category: its worst cell without defenses, and the stack whose worst cell is best."""

    category: str
    about: str
    undefended: Standing | None
    best: Standing | None
    remarks: tuple[str, ...]


class Anchors:
    """Unique fragment identifiers for attacks, stacks and pairs; foreign labels never reach them."""

    def __init__(self, audit: Audit) -> None:
        self._attacks = _slugs(audit.attacks)
        self._stacks = _slugs(audit.stacks)

    def attack(self, label: str) -> str:
        """The section of an attack."""
        return f"attack-{self._attacks[label]}"

    def stack(self, label: str) -> str:
        """The row of a stack."""
        return f"stack-{self._stacks[label]}"

    def pair(self, attack: str, stack: str) -> str:
        """The evidence of a pair."""
        return f"evidence-{self._attacks[attack]}--{self._stacks[stack]}"


def make_cell(audit: Audit, anchors: Anchors, attack: str, stack: str) -> Cell:
    """What the matrix shows of a pair."""
    finding = audit.finding(attack, stack)
    anchor = anchors.pair(attack, stack)
    if not measured(finding):
        status = status_words(finding)
        return Cell(
            style=status.replace(" ", "-") if status in STATUSES else "error",
            letter="",
            value=status,
            span="",
            words=f"{attack} on {stack}: {status}",
            anchor=anchor,
            marks="",
        )
    name, metric = headline(finding)
    unit = str(metric.get("unit") or "")
    severity = str(finding["severity"])
    value = number_of(metric, "value")
    low, high = number_of(metric, "low"), number_of(metric, "high")
    no_proof = unproven(audit, attack, stack)
    caveat = needs_adaptive_caveat(audit, attack, stack)
    words = f"{attack} on {stack}: severity {severity}, {name} {quantity(value, unit)}"
    words += f", interval {plain(low, unit)} to {plain(high, unit)}" if low is not None and high is not None else ""
    words += ", no evidence: the attack failed on its control" if no_proof else ""
    oracles = texts(audit.attacks[attack], "oracles")
    words += f", given what no attacker has: {', '.join(oracles)}" if oracles else ""
    doubted = any(check.get("passed") is False for check in rows(finding, "checks"))
    words += ", too low: the model hides its gradients" if doubted else ""
    return Cell(
        style=UNPROVEN if no_proof else severity,
        letter=LETTERS[severity],
        value=quantity(value, unit),
        span=interval(low, high, unit).removesuffix("%").removesuffix(f" {unit}"),
        words=words,
        anchor=anchor,
        marks=("†" if no_proof else "") + ("‡" if caveat else "") + ("§" if oracles else "") + ("¶" if doubted else ""),
    )


def status_words(finding: Mapping[str, Any]) -> str:
    """The status of a finding without a number; one that claims to be measured and has none says so."""
    status = str(finding.get("status"))
    return "no number" if status == "measured" else status


def matrix(audit: Audit, anchors: Anchors) -> tuple[Group, ...]:
    """The attacks by category, each against every stack."""
    groups = []
    for category, attacks in by_category(audit).items():
        made = []
        for attack in attacks:
            cells = tuple(make_cell(audit, anchors, attack, stack) for stack in audit.stacks)
            metric = next((n for s in audit.stacks if (n := headline(audit.finding(attack, s))[0])), "")
            made.append(
                Row(
                    label=attack,
                    metric=metric.replace("_", " "),
                    anchor=anchors.attack(attack),
                    cells=cells,
                    oracles=tuple(texts(audit.attacks[attack], "oracles")),
                    compromised=compromised(audit, attack),
                )
            )
        groups.append(Group(category=category, rows=tuple(made)))
    return tuple(groups)


def by_category(audit: Audit) -> dict[str, list[str]]:
    """Labels of the attacks by category, in the order of the categories; categories without attacks are left out."""
    grouped: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    for label, attack in audit.attacks.items():
        grouped[category_of(attack)].append(label)
    return {category: attacks for category, attacks in grouped.items() if attacks}


def cards(audit: Audit, anchors: Anchors) -> tuple[Card, ...]:
    """One card per category; a category that no attack covers says so, but for claims that nobody made."""
    grouped = by_category(audit)
    shown = [category for category in CATEGORIES if category in grouped or category != CLAIMS]
    return tuple(_card(audit, anchors, category, grouped.get(category, [])) for category in shown)


def price(audit: Audit, stack: str) -> str:
    """What a stack costs, in one line; empty if nothing is known."""
    utility = audit.utilities.get(stack, {})
    drop, upload = drop_of(utility), number_of(utility, "ratio_upload")
    seconds = number_of(utility, "ratio_seconds")
    name, _, unit = score_of(utility)
    parts = [f"{name} {points(drop, unit)}"] if drop is not None else []
    parts += [f"upload {ratio(upload)}"] if upload is not None else []
    parts += [f"time {ratio(seconds)}"] if seconds is not None else []
    return ", ".join(parts)


def coverage(audit: Audit) -> list[tuple[str, int]]:
    """How many cells have each status, in a fixed order; counted from the cells if the file does not say."""
    counted = table(audit.raw, "coverage")
    names = ("measured", "blocked", "not applicable", "not run", "error")
    if counted:
        return [(name, int(number_of(counted, name.replace(" ", "_")) or 0)) for name in names]
    statuses = [str(f.get("status")) for f in rows(audit.raw, "cells")]
    return [(name, statuses.count(name)) for name in names]


def _card(audit: Audit, anchors: Anchors, category: str, attacks: Sequence[str]) -> Card:
    about = CATEGORIES[category]
    if not attacks:
        remark = "No attack of this kind was part of the audit: nothing is known."
        return Card(category=category, about=about, undefended=None, best=None, remarks=(remark,))
    remarks = []
    missing = sum(not settled(audit.finding(a, s)) for a in attacks for s in audit.stacks)
    if missing:
        remarks.append(f"{missing} of {len(attacks) * len(audit.stacks)} cells have no result.")
    weak = [a for a in attacks if control_failed(audit, a)]
    if weak:
        remarks.append(f"Failed on its undefended control, so its failures are no evidence: {', '.join(weak)}.")
    standings = {s: found for s in audit.stacks if (found := _worst(audit, attacks, s)) is not None}
    undefended = None
    if audit.baseline in standings:
        undefended = _standing(audit, anchors, standings[audit.baseline], audit.baseline)
    elif audit.baseline is None:
        remarks.append("The audit has no undefended control.")
    defended = [s for s in audit.stacks if s != audit.baseline]
    tried = [a for a in attacks if a not in weak]
    best = _best(audit, anchors, attacks, [s for s in defended if _complete(audit, attacks, s)]) if tried else None
    if best is None and defended:
        remarks.append(
            "No stack of defenses has every cell of this category, so none is called best."
            if tried
            else "With no attack that works without defenses, no stack can be called best."
        )
    return Card(category=category, about=about, undefended=undefended, best=best, remarks=tuple(remarks))


def _complete(audit: Audit, attacks: Sequence[str], stack: str) -> bool:
    return all(settled(audit.finding(a, stack)) for a in attacks)


def _worst(audit: Audit, attacks: Sequence[str], stack: str) -> str | None:
    """The attack that does most harm on a stack; one whose failure proves nothing only if there is no other."""
    known = [a for a in attacks if advantage(audit.finding(a, stack)) is not None]
    proven = [a for a in known if not unproven(audit, a, stack)]
    return min(proven or known, key=lambda a: badness(audit.finding(a, stack)), default=None)


def _standing(audit: Audit, anchors: Anchors, attack: str, stack: str, **more: Any) -> Standing:
    return Standing(stack=stack, cell=make_cell(audit, anchors, attack, stack), attack=attack, **more)


def _best(audit: Audit, anchors: Anchors, attacks: Sequence[str], stacks: Sequence[str]) -> Standing | None:
    worst = {s: a for s in stacks if (a := _worst(audit, attacks, s)) is not None and not unproven(audit, a, s)}
    if not worst:
        return None

    def order(stack: str) -> tuple[float, float, float]:
        found = audit.finding(worst[stack], stack)
        gain = advantage(found) or (1.0, 1.0, 1.0)
        return -rank(_severity(found)), gain[2], drop_of(audit.utilities.get(stack, {})) or 0.0

    def alike_to(stack: str) -> list[str]:
        gain = advantage(audit.finding(worst[stack], stack)) or (0.0, 0.0, 0.0)
        return [s for s in worst if s != stack and _overlaps(gain, advantage(audit.finding(worst[s], s)))]

    def cost(stack: str) -> tuple[float, ...]:
        spent = audit.utilities.get(stack, {})
        ratios = (number_of(spent, "ratio_upload") or 1.0, number_of(spent, "ratio_seconds") or 1.0)
        return round(drop_of(spent) or 0.0, 2), *ratios

    least = min(worst, key=order)
    # of those that cannot be told apart from the least harmed, and are as severely harmed, the cheapest
    best = min((s for s in (least, *alike_to(least)) if order(s)[0] == order(least)[0]), key=cost)
    alike = tuple(alike_to(best))
    return _standing(audit, anchors, worst[best], best, price=price(audit, best), alike=alike)


def _severity(finding: Mapping[str, Any]) -> str | None:
    return "none" if finding.get("status") == "blocked" else finding.get("severity")


def _overlaps(one: tuple[float, float, float], other: tuple[float, float, float] | None) -> bool:
    return other is not None and one[1] <= other[2] and other[1] <= one[2]


def _slugs(labels: Mapping[str, Any]) -> dict[str, str]:
    slugs: dict[str, str] = {}
    for label in labels:
        kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in label.lower())
        slug = "-".join(part for part in kept.split("-") if part)[:40] or "x"
        taken, count = set(slugs.values()), 2
        unique = slug
        while unique in taken:
            unique, count = f"{slug}-{count}", count + 1
        slugs[label] = unique
    return slugs
