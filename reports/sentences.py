"""Recovered sentences beside the true ones, word by word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .document import Audit, table
from .format import significant

MOST_WORDS = 60
"""Words shown of a sentence."""
MOST_STACKS = 4
"""Stacks shown: without defenses, and those on which most was read."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One recovered sentence.

    Attributes:
        score: by which the pairs are sorted.
        original: words of the true sentence; empty if it is withheld.
        words: each recovered word, and whether the true sentence has it (``None`` if that may not be told).
        withheld: whether the original is.
    """

    score: str
    original: str
    words: tuple[tuple[str, bool | None], ...]
    withheld: bool


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read on one stack."""

    stack: str
    spaced: bool
    sentences: tuple[Sentence, ...]


def readings(audit: Audit, attack: str) -> tuple[Reading, ...]:
    """The best, the median and the worst sentence of each of a few stacks."""
    found: dict[str, Mapping[str, Any]] = {}
    for stack in audit.stacks:
        exhibit = table(table(audit.finding(attack, stack), "exhibits"), "sentences")
        if exhibit.get("reconstruction"):
            found[stack] = exhibit
    defended = sorted((s for s in found if s != audit.baseline), key=lambda s: -_mean(found[s].get("score") or []))
    shown = [*(s for s in found if s == audit.baseline), *defended][:MOST_STACKS]
    return tuple(_reading(stack, found[stack]) for stack in shown)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else 0.0


def _reading(stack: str, exhibit: Mapping[str, Any]) -> Reading:
    spaced = bool(exhibit.get("spaced", True))
    claims, truths = exhibit["reconstruction"], exhibit.get("original")
    scores = exhibit.get("score") or []
    places = sorted({0, (len(claims) - 1) // 2, len(claims) - 1})
    made = []
    for place in places:
        true = truths[place] if truths is not None and place < len(truths) else None
        score = significant(scores[place]) if place < len(scores) else ""
        made.append(_sentence(claims[place], true, score, " " if spaced else ""))
    return Reading(stack=stack, spaced=spaced, sentences=tuple(made))


def _sentence(claim: Sequence[str], true: Sequence[str] | None, score: str, separator: str) -> Sentence:
    left = Counter(map(str, true or ()))
    words: list[tuple[str, bool | None]] = []
    for word in map(str, claim[:MOST_WORDS]):
        hit = left[word] > 0
        left[word] -= hit
        words.append((word, None if true is None else hit))
    original = separator.join(map(str, (true or ())[:MOST_WORDS]))
    return Sentence(score=score, original=original, words=tuple(words), withheld=true is None)
