"""Galleries of reconstructions: best, median and worst of every stack, originals withheld where they must be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .document import Audit, table
from .format import significant
from .images import Budget, data_uri, is_image
from .severity import CHANGES_INPUTS, category_of

MOST_FEATURES = 16
"""Values shown of an example that is no image."""
NO_ROOM = "Left out to keep this page small; the pixels are in audit.json."
SHOWS_ORIGINAL = "Withheld: an input that was changed a little shows its original."
BROKEN = "Cannot be drawn: the values in audit.json do not fit the shape that it gives."
PLACES = {1: ("best",), 2: ("best", "worst")}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An original beside its reconstruction; images as addresses, anything else as rows of numbers.

    ``difference`` is a picture of what was changed, grey where nothing was, and ``scale`` the change that is white
    (its negative is black). Both are empty for a reconstruction, which was not made from the original.
    """

    place: str
    score: str
    original: str
    reconstruction: str
    difference: str
    scale: str
    original_values: tuple[str, ...]
    values: tuple[str, ...]
    withheld: bool


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The pairs of one stack; ``left_out`` says why there are none."""

    stack: str
    count: int
    pairs: tuple[Pair, ...]
    picture: bool
    left_out: str


def galleries(audit: Audit, attacks: Sequence[str], budget: Budget) -> dict[str, tuple[Gallery, ...]]:
    """Galleries of all attacks; stacks take turns, undefended first, so that no attack eats the budget alone."""
    made: dict[tuple[str, str], Gallery] = {}
    stacks = sorted(audit.stacks, key=lambda s: s != audit.baseline)
    for stack in stacks:
        for attack in attacks:
            exhibit = table(table(audit.finding(attack, stack), "exhibits"), "gallery")
            if exhibit.get("reconstruction") and exhibit.get("shape"):
                changed = category_of(audit.attacks[attack]) == CHANGES_INPUTS
                made[attack, stack] = _gallery(stack, exhibit, _bounds(audit, exhibit), budget, changed=changed)
    return {a: tuple(made[a, s] for s in stacks if (a, s) in made) for a in attacks}


def originals_withheld(audit: Audit) -> bool:
    """Whether some gallery has no originals."""
    return any(
        gallery and gallery.get("original") is None
        for finding in audit.findings.values()
        for gallery in [table(table(finding, "exhibits"), "gallery")]
    )


def has_reconstructions(audit: Audit) -> bool:
    """Whether the page shows reconstructed examples at all."""
    return any(table(table(f, "exhibits"), "gallery").get("reconstruction") for f in audit.findings.values())


def places(count: int) -> tuple[tuple[int, str], ...]:
    """Which of ``count`` pairs, sorted from best to worst, are shown, and what they are called.

    Example:
        >>> places(8)
        ((0, 'best'), (3, 'median'), (7, 'worst'))
    """
    if count <= 2:
        return tuple(enumerate(PLACES.get(count, ())))
    return (0, "best"), ((count - 1) // 2, "median"), (count - 1, "worst")


def _gallery(
    stack: str, exhibit: Mapping[str, Any], bounds: tuple[float, float], budget: Budget, *, changed: bool
) -> Gallery:
    shape = [int(side) for side in exhibit["shape"]]
    rebuilt, originals = exhibit["reconstruction"], exhibit.get("original")
    scores = exhibit.get("score") or []
    picture = is_image(shape)
    pairs: list[Pair] = []
    count = math.prod(shape)
    if any(len(row) != count for row in (*rebuilt, *(originals or ()))):
        return Gallery(stack=stack, count=len(rebuilt), pairs=(), picture=picture, left_out=BROKEN)
    if changed and originals is None:
        return Gallery(stack=stack, count=len(rebuilt), pairs=(), picture=picture, left_out=SHOWS_ORIGINAL)
    for index, place in places(len(rebuilt)):
        original = originals[index] if originals is not None and index < len(originals) else None
        shown = data_uri(rebuilt[index], shape, bounds) if picture else ""
        truth = data_uri(original, shape, bounds) if picture and original is not None else ""
        changes, scale = _difference(original, rebuilt[index], shape) if picture and changed else ("", "")
        if not budget.take(len(shown) + len(truth) + len(changes)):
            return Gallery(stack=stack, count=len(rebuilt), pairs=(), picture=picture, left_out=NO_ROOM)
        score = scores[index] if index < len(scores) else None
        pairs.append(
            Pair(
                place=place,
                score=significant(None if score is None else float(score)),
                original=truth,
                reconstruction=shown,
                difference=changes,
                scale=scale,
                original_values=() if picture or original is None else _numbers(original),
                values=() if picture else _numbers(rebuilt[index]),
                withheld=original is None,
            )
        )
    return Gallery(stack=stack, count=len(rebuilt), pairs=tuple(pairs), picture=picture, left_out="")


def _difference(
    original: Sequence[float | None] | None, altered: Sequence[float | None], shape: Sequence[int]
) -> tuple[str, str]:
    """A picture of the change of each value, centred on grey, and the change at which it is white."""
    if original is None or None in original or None in altered:
        return "", ""
    changes = [float(a or 0.0) - float(b or 0.0) for a, b in zip(altered, original, strict=True)]
    scale = max(map(abs, changes), default=0.0)
    return data_uri(changes, shape, (-scale, scale) if scale > 0 else (-1.0, 1.0)), significant(scale)


def _bounds(audit: Audit, exhibit: Mapping[str, Any]) -> tuple[float, float]:
    """The dataset's bounds; the range of the exhibit's own values where it has none."""
    bounds = table(table(audit.raw, "federation"), "dataset").get("bounds")
    if isinstance(bounds, list | tuple) and len(bounds) == 2 and None not in bounds:
        return float(bounds[0]), float(bounds[1])
    shown = exhibit.get("original") or exhibit["reconstruction"]
    values = [v for row in shown for v in row if v is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _numbers(values: Sequence[float | None]) -> tuple[str, ...]:
    shown = tuple(significant(None if v is None else float(v)) for v in values[:MOST_FEATURES])
    return (*shown, "…") if len(values) > MOST_FEATURES else shown
