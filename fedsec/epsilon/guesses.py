"""From scores of canaries to a lower bound: which coins to guess, how, and what looking several times costs.

A one-run test needs the *number* of guesses to be fixed beforehand; what is guessed may depend on the scores in any
way. Here the scores are split in two groups (the split with the least variance inside them), the coins farthest from
the border are guessed, and the number of guesses is a share of the canaries. Several shares may be tried at the price
of a Bonferroni correction; the best bound of a sweep without it covers too seldom, and is what some tools report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedsec.epsilon.checks import check_level
from fedsec.epsilon.one_run import one_run_epsilon
from fedsec.epsilon.tradeoff import f_dp_one_run_epsilon, f_dp_one_run_gaussian_epsilon

Method = Literal["one-run", "f-dp", "gaussian-dp"]
"""Steinke et al.; Mahloujifar et al. for ``(epsilon, delta)``-DP; the same for Gaussian DP."""

_BOUNDS = {"one-run": one_run_epsilon, "f-dp": f_dp_one_run_epsilon, "gaussian-dp": f_dp_one_run_gaussian_epsilon}
METHODS = tuple(_BOUNDS)
SHARES = (1.0, 0.5, 0.25, 0.125)
"""Shares of the canaries that are guessed by default, each tried."""


@dataclass(frozen=True)
class LowerBound:
    """What an audit says of epsilon.

    Attributes:
        value: lower bound on epsilon.
        ceiling: what the same test would have said, had every guess been right: it cannot say more.
        guesses: number of guesses of the share that gave the bound.
        correct: of them right.
    """

    value: float
    ceiling: float
    guesses: int
    correct: int


def border(scores: NDArray[np.float64]) -> float:
    """The middle between the two groups whose variance inside is least (two means in one dimension, exactly)."""
    ranked = np.sort(scores)
    n = len(ranked)
    if n < 2 or ranked[0] == ranked[-1]:
        return float(ranked[0])
    sums = np.cumsum(ranked)[:-1]
    left = np.arange(1, n)
    between = sums**2 / left + (ranked.sum() - sums) ** 2 / (n - left)
    # equal scores belong to one group
    between[ranked[1:] == ranked[:-1]] = -np.inf
    cut = int(np.argmax(between)) + 1
    return float((ranked[:cut].mean() + ranked[cut:].mean()) / 2)


def right_guesses(scores: ArrayLike, included: ArrayLike) -> NDArray[np.int64]:
    """How many of the surest guesses are right; the scores alone decide what is guessed, and in which order.

    Args:
        scores: ``(m,)`` higher means included.
        included: ``(m,)`` bool, the coins.

    Returns:
        ``(m + 1,)``: at ``r``, the right ones of the ``r`` surest guesses.
    """
    values, coins = np.asarray(scores, dtype=np.float64), np.asarray(included).astype(bool)
    middle = border(values)
    surest = np.argsort(-np.abs(values - middle), kind="stable")
    return np.append(0, np.cumsum(((values > middle) == coins)[surest]))


def audit_epsilon(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    delta: float,
    method: Method = "f-dp",
    confidence: float = 0.95,
    shares: Sequence[float] = SHARES,
) -> LowerBound:
    """Lower bound on epsilon from the scores of canaries in one training.

    Args:
        scores: ``(m,)`` finite, higher means included.
        included: ``(m,)`` bool, fair and independent coins.
        delta: in [0, 1); above 0 for ``gaussian-dp``.
        method: ``f-dp`` holds for every mechanism and is never far from the best of the three without assumptions;
            ``one-run`` holds too; ``gaussian-dp`` is for mechanisms that are Gaussian-DP (Gaussian noise, no
            sampling) and far tighter there.
        confidence: of the bound, in (0, 1).
        shares: shares of the canaries that are guessed, fixed beforehand; several are corrected for.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    values, coins = np.asarray(scores, dtype=np.float64), np.asarray(included).astype(bool)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"scores must be a vector of finite numbers, found shape {values.shape}")
    if coins.shape != values.shape:
        raise ValueError(f"included must have one coin per score, found shape {coins.shape} for {values.shape}")
    if method not in _BOUNDS:
        raise ValueError(f"method must be one of {', '.join(_BOUNDS)}, found {method}")
    if not len(shares) or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares must lie in (0, 1], found {tuple(shares)}")
    m, each = len(values), 1 - check_level(confidence) / len(shares)

    def bound(guesses: int, correct: int) -> float:
        return _BOUNDS[method](canaries=m, guesses=guesses, correct=correct, delta=delta, confidence=each)

    right, tried = right_guesses(values, coins), []
    for share in shares:
        guesses = max(1, round(share * m))
        correct = int(right[guesses])
        tried.append((bound(guesses, correct), bound(guesses, guesses), guesses, correct))
    best = max(tried, key=lambda one: one[0])
    return LowerBound(best[0], max(one[1] for one in tried), best[2], best[3])


def as_method(name: str) -> Method:
    """The method of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in _BOUNDS:
        raise ValueError(f"method must be one of {', '.join(_BOUNDS)}, found {name}")
    return cast(Method, name)
