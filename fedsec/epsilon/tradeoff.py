"""A lower bound from one training by the whole trade-off curve (Mahloujifar, Melis, Chaudhuri 2024, arXiv 2410.22235).

The setting is that of `fedsec.epsilon.one_run`: ``m`` fair coins, ``r`` guesses. Let ``p_i`` be the probability that
exactly ``i`` guesses are right. If every coin is ``f``-DP by itself, flipping coin ``j`` turns "guess ``j`` is right
and ``i`` are" into "guess ``j`` is wrong and ``i - 1`` are right", so that for every set of counts ``T``, by the
concavity of ``F(x) = 1 - f(x)`` and averaged over the coins,

    ``sum_T (i / m) p_i <= F( sum_T ((r - i + 1) / m) p_{i-1} )``.

For the tails ``T = {i + 1, i + 2, ...}`` this reads ``H_i >= F^{-1}(R_{i+1})``, ``R_i = sum_{l >= i} (l/m) p_l`` and
``H_i = sum_{l >= i} ((r-l)/m) p_l``. Put probability ``tau`` on ``c`` right guesses, and on each smaller count the
least that the inequality allows: any other choice needs more in all, because probability that is moved to a smaller
count relaxes every inequality. If more than 1 is needed, ``f``-DP gives ``c`` or more right guesses a probability below
``tau``, and guesses that good refute ``f`` at level ``tau``.

Two families of curves: ``(epsilon, delta)``-DP, which assumes nothing of the mechanism, and Gaussian DP, which is
exact for Gaussian mechanisms without sampling, and far tighter there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fedsec.epsilon.checks import check_counts, check_delta, check_level
from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.epsilon.one_run import MOST

Floats = NDArray[np.float64]
Inverse = Callable[[Floats, Floats], Floats]
"""``(values y of F, strengths) -> smallest x with F(x) >= y``, element by element; 0 at 0."""

MOST_MU = 30.0
"""Strength of Gaussian DP above which nothing is searched."""
_GRID = 33
"""Strengths tried at once."""


def approximate(delta: float) -> Inverse:
    """``F^{-1}`` of ``(epsilon, delta)``-DP: ``f(x) = max(0, 1 - delta - e^epsilon x, e^-epsilon (1 - delta - x))``.

    Args:
        delta: in [0, 1).
    """

    def inverse(y: Floats, epsilon: Floats) -> Floats:
        small = np.exp(-epsilon) * (y - delta)
        large = 1 - delta - np.exp(np.minimum(epsilon, 700.0)) * (1 - y)
        return np.clip(np.maximum(small, large), 0.0, 1.0)

    return inverse


def gaussian(y: Floats, mu: Floats) -> Floats:
    """``F^{-1}`` of ``mu``-Gaussian DP: ``Phi(Phi^{-1}(y) - mu)`` (Dong, Roth, Su 2022)."""
    return np.asarray(ndtr(ndtri(np.clip(y, 0.0, 1.0)) - mu), dtype=np.float64)


def refuted(
    inverse: Inverse, strengths: Floats, *, canaries: int, guesses: int, correct: int, level: float
) -> NDArray[np.bool_]:
    """Whether so many right guesses refute each curve of a family at this level.

    Args:
        inverse: of the family.
        strengths: ``(s,)`` its parameters.
        canaries: ``m``.
        guesses: ``r``.
        correct: ``c``.
        level: ``tau``.

    Returns:
        ``(s,)`` bool.
    """
    right = np.full(len(strengths), level * correct / canaries)
    wrong = np.full(len(strengths), level * (guesses - correct) / canaries)
    enough = guesses / canaries
    for i in range(correct - 1, -1, -1):
        needed = np.maximum(wrong, inverse(right, strengths))
        right = right + i / (guesses - i) * (needed - wrong)
        wrong = needed
    return np.asarray(right + wrong > enough, dtype=np.bool_)


def _strongest(inverse: Inverse, most: float, *, canaries: int, guesses: int, correct: int, level: float) -> float:
    """The largest strength up to ``most`` that is refuted, to a relative 1e-6, rounded down; 0 if none is."""
    low, high = 0.0, most
    if correct == 0:
        return 0.0
    while high - low > 1e-6 * max(high, 1e-2):
        grid = np.linspace(low, high, _GRID)
        found = refuted(inverse, grid, canaries=canaries, guesses=guesses, correct=correct, level=level)
        # refutation is monotone; the first curve that stands bounds the search
        first = int(np.argmin(found)) if not found.all() else _GRID
        if first == 0:
            return 0.0
        if first == _GRID:
            return most
        low, high = float(grid[first - 1]), float(grid[first])
    return low


@functools.lru_cache(maxsize=4096)
def f_dp_one_run_epsilon(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """Lower bound on epsilon at ``delta``, for any mechanism; see the module.

    Args:
        canaries: ``m``, all randomised canaries.
        guesses: ``r``, of them guessed; fixed before the coins are known.
        correct: ``c``, of them right.
        delta: at which epsilon is asked for, in [0, 1).
        confidence: of the bound, in (0, 1).

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    level = check_level(confidence)
    check_counts(canaries, guesses, correct)
    check_delta(delta)
    family = approximate(delta)
    return _strongest(family, MOST, canaries=canaries, guesses=guesses, correct=correct, level=level)


@functools.lru_cache(maxsize=4096)
def f_dp_one_run_mu(*, canaries: int, guesses: int, correct: int, confidence: float = 0.95) -> float:
    """Lower bound on the strength ``mu`` of a mechanism that is Gaussian-DP; see the module.

    Args:
        canaries: see `f_dp_one_run_epsilon`.
        guesses: see `f_dp_one_run_epsilon`.
        correct: see `f_dp_one_run_epsilon`.
        confidence: see `f_dp_one_run_epsilon`.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    level = check_level(confidence)
    check_counts(canaries, guesses, correct)
    return _strongest(gaussian, MOST_MU, canaries=canaries, guesses=guesses, correct=correct, level=level)


@functools.lru_cache(maxsize=4096)
def f_dp_one_run_gaussian_epsilon(
    *, canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95
) -> float:
    """`f_dp_one_run_mu` as an epsilon at ``delta`` in (0, 1); holds for Gaussian-DP mechanisms only."""
    mu = f_dp_one_run_mu(canaries=canaries, guesses=guesses, correct=correct, confidence=confidence)
    return gaussian_epsilon(mu, delta)
