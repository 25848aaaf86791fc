"""The discrete Gaussian: drawn exactly, on whole numbers, and what sums of it hide."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LARGEST = 1 << 26
"""Largest variance whose draws fit into 64 bits."""
_FARTHEST = 40
"""Candidates beyond so many scales are accepted with a chance below ``exp(-700)``; they are refused outright."""
_ORDERS = (*(1 + step / 10 for step in range(1, 100)), *range(11, 64), *range(64, 512, 16), *range(512, 4097, 256))


def discrete_gaussian(variance: int, size: int, random: np.random.Generator) -> Whole:
    """Independent draws from ``P(k) ~ exp(-k^2 / (2 variance))`` on the whole numbers.

    Algorithm 3 of Canonne, Kamath and Steinke 2020: rejection from a discrete Laplace distribution, with coins whose
    chances are ratios of whole numbers. No floating-point number is involved, so the draws are exact as far as those of
    the generator are uniform.

    Args:
        variance: parameter, a whole number from 1 to `LARGEST`; the variance of the draws is a little smaller.
        size: how many.
        random: draws the bits.

    Returns:
        int64 ``(size,)``.

    Raises:
        ValueError: the parameter is out of range.
    """
    if not 1 <= variance <= LARGEST:
        raise ValueError(f"a variance of {variance} is not a whole number from 1 to {LARGEST}")
    scale = math.isqrt(variance) + 1
    found: list[Whole] = []
    missing = size
    while missing > 0:
        drawn = discrete_laplace(scale, int(1.5 * missing) + 16, random)
        near = np.abs(drawn) <= _FARTHEST * scale
        drawn = drawn[near]
        above = (np.abs(drawn) * scale - variance) ** 2
        accepted = drawn[_coin_exp(above, 2 * variance * scale**2, random)]
        found.append(accepted[:missing])
        missing -= len(found[-1])
    return np.concatenate([np.zeros(0, np.int64), *found])


def discrete_laplace(scale: int, tries: int, random: np.random.Generator) -> Whole:
    """Draws from ``P(k) ~ exp(-|k| / scale)``: those of ``tries`` candidates that are accepted (algorithm 2)."""
    low = random.integers(0, scale, tries)
    low = low[_coin_exp(low, scale, random)]
    high = np.zeros(len(low), np.int64)
    going = np.arange(len(low))
    while len(going):
        going = going[_coin_exp(np.ones(len(going), np.int64), 1, random)]
        high[going] += 1
    magnitude = low + scale * high
    negative = random.integers(0, 2, len(low)) == 1
    kept = ~(negative & (magnitude == 0))
    signed: Whole = np.where(negative, -magnitude, magnitude)[kept]
    return signed


def _coin_exp(above: Whole, below: int, random: np.random.Generator) -> Flags:
    """A coin for each entry that comes up with chance ``exp(-above / below)`` (algorithm 1)."""
    whole, rest = above // below, above % below
    result = np.ones(len(above), bool)
    left = np.flatnonzero(whole > 0)
    while len(left):
        up = _coin_exp_small(np.ones(len(left), np.int64), 1, random)
        result[left[~up]] = False
        whole[left] -= 1
        left = left[up & (whole[left] > 0)]
    going = np.flatnonzero(result)
    result[going] = _coin_exp_small(rest[going], below, random)
    return result


def _coin_exp_small(above: Whole, below: int, random: np.random.Generator) -> Flags:
    """The same for ``above <= below``: how many coins of chance ``above / (below k)`` come up in a row is even."""
    runs = np.zeros(len(above), np.int64)
    going = np.arange(len(above))
    k = 1
    while len(going):
        going = going[random.integers(0, below * k, len(going)) < above[going]]
        runs[going] += 1
        k += 1
    even: Flags = runs % 2 == 0
    return even


def rounded_norm(clip: float, dimension: int, beta: float) -> float:
    """The largest norm that conditional rounding lets through (Kairouz, Liu, Steinke 2021, theorem 1), in grid steps.

    Rounding at random moves a vector by at most the root of the dimension, and with a chance of at least ``1 - beta``
    by about half of that; rounds that exceed the bound are drawn again.

    Args:
        clip: norm before rounding, in grid steps.
        dimension: of the vector.
        beta: in (0, 1).
    """
    root = math.sqrt(dimension)
    likely = clip**2 + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * (clip + root / 2)
    return min(clip + root, math.sqrt(likely))


def rounded(rows: npt.NDArray[np.float64], *, clip: float, beta: float, random: list[np.random.Generator]) -> Whole:
    """Each entry to one of its whole neighbours, unbiased, a row again and again until its norm is allowed.

    The condition makes the expectation differ a little from the row (by a share of at most ``beta / (1 - beta)``).

    Args:
        rows: ``(n, d)`` in grid steps, of norm at most ``clip``.
        clip: see `rounded_norm`.
        beta: see `rounded_norm`.
        random: a generator per row.
    """
    most = rounded_norm(clip, rows.shape[1], beta) ** 2 * (1 + 1e-12)
    result = np.empty(rows.shape, np.int64)
    for row, (values, draws) in enumerate(zip(rows, random, strict=True)):
        while True:
            candidate = np.floor(values + draws.random(len(values)))
            if float(candidate @ candidate) <= most:
                break
        result[row] = candidate
    return result


def not_quite_gaussian(variance: int, terms: int) -> float:
    """``tau``: how far a sum of discrete Gaussians is from a discrete Gaussian, per coordinate (theorem 1)."""
    falling = (math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, terms))
    return 10 * sum(falling)


@functools.lru_cache(maxsize=1024)
def sum_epsilon(*, sensitivity: float, variance: int, terms: int, dimension: int, rounds: int, delta: float) -> float:
    """Epsilon of sums of discrete Gaussians, by proposition 14 and the conversion of Balle et al. 2020.

    ``D_alpha <= min(alpha s^2 / 2 + tau d, alpha (s + tau sqrt(d))^2 / 2)``, ``s = sensitivity / sqrt(n variance)``.

    Args:
        sensitivity: L2, in grid steps.
        variance: of one discrete Gaussian.
        terms: how many are in a sum, ``n``.
        dimension: ``d``.
        rounds: sums that count one client.
        delta: in (0, 1).
    """
    scale = sensitivity / math.sqrt(terms * variance)
    tau = not_quite_gaussian(variance, terms)
    best = math.inf
    for order in _ORDERS:
        one = min(order * scale**2 / 2 + tau * dimension, order * (scale + tau * math.sqrt(dimension)) ** 2 / 2)
        spent = rounds * one + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        best = min(best, spent)
    return max(0.0, best)
