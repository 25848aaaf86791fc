"""ROUGE between two token sequences: overlap of n-grams, and the longest common subsequence.

Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, sections 2 and 3, as F1 (equal weight of precision
and recall), on token ids: no stemming, no splitting of words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def f1(common: float, found: float, true: float) -> float:
    """Harmonic mean of ``common / found`` and ``common / true``; 0 if either side is empty."""
    return 2 * common / (found + true) if found and true else 0.0


def rouge_n(found: Sequence[int], true: Sequence[int], *, n: int) -> float:
    """F1 of the n-grams, each counted as often as it occurs; in [0, 1]."""
    mine, theirs = _grams(found, n), _grams(true, n)
    return f1((mine & theirs).total(), mine.total(), theirs.total())


def rouge_l(found: Sequence[int], true: Sequence[int]) -> float:
    """F1 of the longest common subsequence; in [0, 1]."""
    return f1(longest_common_subsequence(found, true), len(found), len(true))


def longest_common_subsequence(first: Sequence[int], second: Sequence[int]) -> int:
    """Its length, by bit-parallel dynamic programming (Hyyrö 2004): one addition per token of ``second``."""
    places: dict[int, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        hit = row & places.get(token, 0)
        row = ((row + hit) | (row - hit)) & full
    return len(first) - row.bit_count()


def _grams(tokens: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
