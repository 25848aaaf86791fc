"""What attacks on a published model cost, in passes through it: free of the machine that they ran on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .document import Audit, number_of, table
from .format import significant
from .overview import Anchors

FORWARD, BACKWARD = "forward_passes", "backward_passes"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Passes per input of one attack on one stack; lengths of the bars in percent, on a logarithmic scale."""

    anchor: str
    forward: str
    backward: str
    forward_length: float = 0.0
    backward_length: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PassRow:
    """One attack: what it spent on each stack, ``None`` where that is not known."""

    attack: str
    anchor: str
    cells: tuple[Spent | None, ...]


@dataclass(frozen=True, kw_only=True)
class Passes:
    """The table, and the number of passes that the longest bar stands for."""

    stacks: tuple[tuple[str, str], ...]
    rows: tuple[PassRow, ...]
    most: str


def passes(audit: Audit, anchors: Anchors) -> Passes | None:
    """Every attack whose judge counted its passes; ``None`` if there is none."""
    spent = {
        (attack, stack): found
        for attack in audit.attacks
        for stack in audit.stacks
        if (found := _numbers(audit.finding(attack, stack))) is not None
    }
    if not spent:
        return None
    most = max(max(pair) for pair in spent.values())
    attacks = [attack for attack in audit.attacks if any(key[0] == attack for key in spent)]
    stacks = [stack for stack in audit.stacks if any(key[1] == stack for key in spent)]
    return Passes(
        stacks=tuple((stack, anchors.stack(stack)) for stack in stacks),
        rows=tuple(
            PassRow(
                attack=attack,
                anchor=anchors.attack(attack),
                cells=tuple(_cell(anchors, attack, stack, spent.get((attack, stack)), most) for stack in stacks),
            )
            for attack in attacks
        ),
        most=_count(most),
    )


def _numbers(finding: Mapping[str, Any]) -> tuple[float, float] | None:
    metrics = table(finding, "metrics")
    forward, backward = (number_of(table(metrics, name), "value") for name in (FORWARD, BACKWARD))
    return None if forward is None or backward is None else (forward, backward)


def _cell(anchors: Anchors, attack: str, stack: str, spent: tuple[float, float] | None, most: float) -> Spent | None:
    if spent is None:
        return None
    forward, backward = spent
    return Spent(
        anchor=anchors.pair(attack, stack),
        forward=_count(forward),
        backward=_count(backward),
        forward_length=_length(forward, most),
        backward_length=_length(backward, most),
    )


def _count(number: float) -> str:
    """Three digits; from a hundred on whole passes."""
    return significant(round(number) if number >= 100 or number == round(number) else float(number))


def _length(number: float, most: float) -> float:
    return round(100 * math.log1p(number) / math.log1p(most), 1) if most > 0 else 0.0
