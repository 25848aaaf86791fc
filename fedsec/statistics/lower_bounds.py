"""Lower bounds on epsilon over several seeds.

Scores of two trainings must not be joined into one audit: their coins are independent, but the one-run tests bound the
right guesses of *one* output. Each seed is an audit of its own, and the largest of ``k`` bounds at confidence
``1 - level / k`` each is a bound at ``1 - level`` (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from fedsec.epsilon.guesses import Method, as_method, audit_epsilon

_PREFIX = "epsilon:"


@dataclass(frozen=True)
class Bounds:
    """Bounds of several seeds.

    Attributes:
        value: of all of them together.
        ceiling: what that could have been at most.
        seeds: of each, at the confidence that was corrected for their number.
    """

    value: float
    ceiling: float
    seeds: tuple[float, ...]


def lower_bound_statistic(method: Method, delta: float) -> str:
    """Name of the statistic: a lower bound on epsilon at ``delta`` from scores and coins."""
    return f"{_PREFIX}{method}@{delta!r}"


def is_lower_bound(statistic: str) -> bool:
    """Whether a statistic is one of these."""
    return statistic.startswith(_PREFIX)


def largest_bound(statistic: str, audits: Sequence[tuple[ArrayLike, ArrayLike]], *, confidence: float = 0.95) -> Bounds:
    """The largest of the bounds of several trainings, corrected for their number.

    Args:
        statistic: of `lower_bound_statistic`.
        audits: ``(scores, coins)`` of each.
        confidence: of the result.

    Raises:
        ValueError: the statistic is no lower bound, or an audit is malformed.
    """
    method, _, delta = statistic.removeprefix(_PREFIX).partition("@")
    if not is_lower_bound(statistic) or not delta:
        raise ValueError(f"a lower bound is epsilon:<method>@<delta>, found {statistic}")
    each = 1 - (1 - confidence) / len(audits)
    found = [
        audit_epsilon(scores, coins, delta=float(delta), method=as_method(method), confidence=each)
        for scores, coins in audits
    ]
    return Bounds(max(f.value for f in found), max(f.ceiling for f in found), tuple(f.value for f in found))
