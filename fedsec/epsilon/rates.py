"""Bounds and an estimate from canaries that are independent of each other.

Unlike the one-run tests, these need the scores to be independent given the coins: one training per canary, or canaries
in one training whose effects do not meet (few random directions in a high dimension; exact for the Gaussian mechanism
with orthogonal ones).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, log_ndtr, ndtr, ndtri

from fedsec.epsilon.checks import check_delta, check_level
from fedsec.epsilon.gaussian import gaussian_epsilon

THRESHOLDS = (1.0, 2.0, 3.0, 4.0)
"""Standard deviations of the null at which `known_null_epsilon` looks by default."""


def _lowest(k: int, n: int, level: float) -> float:
    """One-sided Clopper-Pearson lower bound of a rate."""
    return 0.0 if k == 0 else float(betaincinv(k, n - k + 1, level))


def _counts(members: int, found: int, nonmembers: int, accused: int) -> None:
    for name, count, among, total in (
        ("found", found, "members", members),
        ("accused", accused, "nonmembers", nonmembers),
    ):
        if total < 1:
            raise ValueError(f"{among} must be at least 1, found {total}")
        if not 0 <= count <= total:
            raise ValueError(f"{name} must lie between 0 and the {total} {among}, found {count}")


def _both(members: int, found: int, nonmembers: int, accused: int, level: float) -> tuple[float, float]:
    """Lowest true and highest false positive rate, jointly at this level."""
    return _lowest(found, members, level / 2), 1 - _lowest(nonmembers - accused, nonmembers, level / 2)


def _from_rates(true: float, false: float, delta: float) -> float:
    """The epsilon that ``true <= e^epsilon false + delta`` and its mirror image need, at least 0."""
    ratios = [(true - delta, false), (1 - false - delta, 1 - true)]
    bounds = [math.log(top / bottom) if bottom > 0 else math.inf for top, bottom in ratios if top > 0]
    return max(0.0, *bounds) if bounds else 0.0


def rates_epsilon(
    *, members: int, found: int, nonmembers: int, accused: int, delta: float, confidence: float = 0.95
) -> float:
    """Lower bound on epsilon from a true and a false positive rate (Clopper and Pearson 1934 on each).

    Args:
        members: trials in which the canary was included.
        found: of them guessed included, at a threshold fixed beforehand.
        nonmembers: trials in which it was not.
        accused: of them guessed included.
        delta: in [0, 1).
        confidence: of both rates together (Bonferroni), in (0, 1).

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    _counts(members, found, nonmembers, accused)
    check_delta(delta)
    return _from_rates(*_both(members, found, nonmembers, accused, check_level(confidence)), delta)


def gaussian_rates_epsilon(
    *, members: int, found: int, nonmembers: int, accused: int, delta: float, confidence: float = 0.95
) -> float:
    """The same for a Gaussian-DP mechanism: ``mu >= Phi^{-1}(TPR) - Phi^{-1}(FPR)`` (Nasr et al. 2023, section 4.2).

    Args:
        members: see `rates_epsilon`.
        found: see `rates_epsilon`.
        nonmembers: see `rates_epsilon`.
        accused: see `rates_epsilon`.
        delta: in (0, 1).
        confidence: see `rates_epsilon`.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    _counts(members, found, nonmembers, accused)
    check_delta(delta)
    true, false = _both(members, found, nonmembers, accused, check_level(confidence))
    mu = float(ndtri(true) - ndtri(false))
    return gaussian_epsilon(mu, delta) if mu > 0 else 0.0


def known_null_epsilon(
    scores: ArrayLike, *, delta: float, confidence: float = 0.95, thresholds: Sequence[float] = THRESHOLDS
) -> float:
    """Lower bound from canaries that were all included, where the null is known (Andrew et al. 2024).

    The cosine of a random direction with anything that does not depend on it is ``N(0, 1/d)`` in a high dimension, so
    the false positive rate of a threshold is known and only the true positive rate is estimated: by an exact interval,
    where the authors take Jeffreys'. Several thresholds are corrected for (Bonferroni).

    Args:
        scores: ``(n,)`` of included canaries, in standard deviations of the null (cosine times ``sqrt(d)``).
        delta: in [0, 1).
        confidence: of the bound, in (0, 1).
        thresholds: fixed beforehand.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    values = _finite("scores", scores, least=1)
    check_delta(delta)
    level = check_level(confidence)
    if not len(thresholds):
        raise ValueError("thresholds must name at least one")
    bounds = []
    for threshold in thresholds:
        true = _lowest(int((values >= threshold).sum()), len(values), level / len(thresholds))
        bounds.append(_from_rates(true, float(ndtr(-threshold)), delta))
    return max(bounds)


def canary_epsilon_estimate(scores: ArrayLike, *, delta: float) -> float:
    """Estimate of epsilon from canaries in one training (Andrew et al. 2024, algorithm 2): no bound, no confidence.

    A normal distribution is fitted to the scores, and epsilon is that of telling it from the null.

    Args:
        scores: ``(n,)`` of included canaries, in standard deviations of the null (cosine times ``sqrt(d)``).
        delta: in (0, 1).

    Returns:
        Epsilon; infinite if all the scores are equal.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    values = _finite("scores", scores, least=2)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    return two_normals_epsilon(mean, std, delta=delta) if std > 0 else math.inf


def two_normals_epsilon(mean: float, std: float, *, delta: float) -> float:
    """The smallest epsilon at which ``N(0, 1)`` and ``N(mean, std^2)`` are alike up to ``delta``, both ways.

    Args:
        mean: of the second.
        std: of the second, above 0.
        delta: in (0, 1).

    Returns:
        Epsilon, to a relative 1e-9, rounded up.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """
    if not std > 0:
        raise ValueError(f"std must be above 0, found {std}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), found {delta}")
    pairs = (((0.0, 1.0), (mean, std)), ((mean, std), (0.0, 1.0)))

    def excess(epsilon: float) -> float:
        return max(hockey_stick(p, q, epsilon) for p, q in pairs)

    if excess(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > delta else (low, middle)
    return high


def hockey_stick(p: tuple[float, float], q: tuple[float, float], epsilon: float) -> float:
    """``sup_E P(E) - e^epsilon Q(E)`` of two normal distributions ``(mean, std)``: the smallest delta at epsilon.

    The supremum is at the set where the log density ratio, a quadratic function, exceeds epsilon.
    """
    (m, s), (n, t) = p, q
    a = (1 / t**2 - 1 / s**2) / 2
    b = m / s**2 - n / t**2
    c = n**2 / (2 * t**2) - m**2 / (2 * s**2) + math.log(t / s) - epsilon
    parts = _positive(a, b, c)
    total = 0.0
    for low, high in parts:
        first, second = _log_mass(low, high, m, s), _log_mass(low, high, n, t) + epsilon
        if first > -math.inf:
            total += -math.exp(first) * math.expm1(min(0.0, second - first))
    return max(0.0, total)


def _positive(a: float, b: float, c: float) -> list[tuple[float, float]]:
    """Where ``a x^2 + b x + c > 0``, as intervals."""
    if abs(a) < 1e-12 * max(1.0, abs(b)):
        if b == 0:
            return [(-math.inf, math.inf)] if c > 0 else []
        return [(-c / b, math.inf)] if b > 0 else [(-math.inf, -c / b)]
    root = b * b - 4 * a * c
    if root <= 0:
        return [(-math.inf, math.inf)] if a > 0 else []
    # the stable pair: one root by the sum, the other by the product
    larger = -(b + math.copysign(math.sqrt(root), b)) / 2
    ends = sorted((larger / a, c / larger)) if larger != 0 else [0.0, 0.0]
    return [(-math.inf, ends[0]), (ends[1], math.inf)] if a > 0 else [(ends[0], ends[1])]


def _log_mass(low: float, high: float, mean: float, std: float) -> float:
    """Log probability of an interval under a normal distribution."""
    x, y = (low - mean) / std, (high - mean) / std
    if x > 0:
        x, y = -y, -x
    top, bottom = float(log_ndtr(y)), float(log_ndtr(x))
    return top + math.log1p(-math.exp(bottom - top)) if bottom < top else -math.inf


def _finite(name: str, values: ArrayLike, *, least: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a vector of at least {least} finite numbers, found shape {array.shape}")
    return array
