"""What each attack saw, and who must collude to read what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .document import Audit, number_of, rows, table, texts
from .format import counted, rounds, size


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The same view on one or more stacks."""

    stacks: tuple[str, ...]
    position: str
    events: tuple[str, ...]
    knowledge: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The smallest coalitions that read a secret, and the stacks on which they are these."""

    secret: str
    coalitions: tuple[str, ...]
    stacks: tuple[str, ...]


def ledgers(audit: Audit, attack: str) -> tuple[Ledger, ...]:
    """What the attack received, of the first seed that received anything; stacks with equal ledgers share one."""
    first: dict[str, Mapping[str, Any]] = {}
    for cell in audit.cells(attack):
        seen = table(cell, "seen")
        if seen and (rows(seen, "events") or cell.get("status") == "measured"):
            first.setdefault(str(cell.get("stack")), seen)
    grouped: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for stack, seen in first.items():
        key = (str(seen.get("position") or ""), tuple(_event(e) for e in rows(seen, "events")),
               tuple(texts(seen, "knowledge")))  # fmt: skip
        grouped.setdefault(key, []).append(stack)
    return tuple(
        Ledger(stacks=tuple(stacks), position=position, events=events, knowledge=knowledge)
        for (position, events, knowledge), stacks in grouped.items()
    )


def openings(audit: Audit) -> tuple[tuple[str, tuple[Opening, ...]], ...]:
    """For each secret, the coalitions that open it; stacks with equal coalitions share a row."""
    grouped: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for entry in rows(audit.raw, "opens"):
        coalitions = tuple(" + ".join(map(str, members)) for members in entry.get("coalitions") or [])
        grouped.setdefault(str(entry.get("secret")), {}).setdefault(coalitions, []).append(str(entry.get("stack")))
    return tuple(
        (secret, tuple(Opening(secret=secret, coalitions=c, stacks=tuple(s)) for c, s in by.items()))
        for secret, by in grouped.items()
    )


def _event(event: Mapping[str, Any]) -> str:
    count, topic = event.get("count"), str(event.get("topic"))
    numbers = [int(r) for r in event.get("rounds") or []]
    text = counted(count, topic)
    text += f" of rounds {rounds(numbers)}" if len(numbers) > 1 else (f" of round {numbers[0]}" if numbers else "")
    volume = number_of(event, "bytes")
    return text + (f", {size(volume)}" if volume is not None else "")
