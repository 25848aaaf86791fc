"""A lower bound on epsilon from one training with many canaries (Steinke, Nasr, Jagielski 2023).

Each of ``m`` canaries is included or not by a fair coin of its own. Somebody who sees the output guesses ``r`` of the
coins and is right about ``v``. An ``(epsilon, delta)``-DP mechanism makes so many right guesses unlikely: theorem 5.2
bounds the probability by

    ``P[B >= v] + 2 m delta max_i (P[v > B >= v - i] / i)``,   ``B ~ Binomial(r, e^epsilon / (1 + e^epsilon))``,

whatever the dependence between the canaries. The number of canaries stands before delta and counts all coins, guessed
or not. The number of guesses must be fixed before the coins are known.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.special import bdtrc, expit, gammaln, xlogy

from fedsec.epsilon.checks import check_counts, check_delta, check_level

MOST = 64.0
"""Epsilon above which nothing is searched: ``e^-64`` is below the resolution of a double near 1."""


def one_run_p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Upper bound on the probability of so many right guesses against an ``(epsilon, delta)``-DP mechanism.

    Args:
        canaries: ``m``, all randomised canaries.
        guesses: ``r``, of them guessed.
        correct: ``v``, of them right.
        epsilon: at least 0.
        delta: in [0, 1).

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    check_counts(canaries, guesses, correct)
    check_delta(delta)
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, found {epsilon}")
    if correct == 0:
        return 1.0
    right = float(expit(epsilon))
    tail = float(bdtrc(correct - 1, guesses, right))
    if delta == 0:
        return min(1.0, tail)
    # P[v > B >= v - i] for i = 1 .. v
    k = np.arange(correct - 1, -1, -1, dtype=np.float64)
    ways = gammaln(guesses + 1) - gammaln(k + 1) - gammaln(guesses - k + 1)
    below = np.cumsum(np.exp(ways + xlogy(k, right) + xlogy(guesses - k, float(expit(-epsilon)))))
    steepest = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, tail + 2 * canaries * delta * steepest)


@functools.lru_cache(maxsize=4096)
def one_run_epsilon(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """Lower bound on epsilon (Steinke, Nasr, Jagielski 2023, theorem 5.2), rounded down.

    Args:
        canaries: ``m``, all randomised canaries.
        guesses: ``r``, of them guessed; fixed before the coins are known.
        correct: ``v``, of them right.
        delta: at which epsilon is asked for, in [0, 1).
        confidence: of the bound, in (0, 1).

    Returns:
        The largest epsilon, to 1e-9, at which the p-value is still at most ``1 - confidence``; 0 if even perfect
        privacy explains the guesses.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    level = check_level(confidence)

    def refuted(epsilon: float) -> bool:
        p = one_run_p_value(canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta)
        return p <= level

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high) and high < MOST:
        low, high = high, 2 * high
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def one_run_ceiling(*, canaries: int, guesses: int, delta: float, confidence: float = 0.95) -> float:
    """The largest bound that `one_run_epsilon` can give: every guess is right.

    For delta 0 it is ``-ln(level^(-1/r) - 1)``, so 3.49 for 100 guesses at 95 %: an audit cannot say more.

    Args:
        canaries: see `one_run_epsilon`.
        guesses: see `one_run_epsilon`.
        delta: see `one_run_epsilon`.
        confidence: see `one_run_epsilon`.
    """
    return one_run_epsilon(canaries=canaries, guesses=guesses, correct=guesses, delta=delta, confidence=confidence)


def pure_ceiling(guesses: int, confidence: float = 0.95) -> float:
    """The closed form of `one_run_ceiling` for delta 0, at least 0."""
    level = check_level(confidence)
    if guesses == 0:
        return 0.0
    return max(0.0, -math.log(math.expm1(-math.log(level) / guesses)))
