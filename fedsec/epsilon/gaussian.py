"""The Gaussian mechanism, exactly (Balle and Wang 2018, theorem 8), composed exactly.

With ``mu = sensitivity / sigma``, the mechanism is ``(epsilon, delta)``-DP if and only if
``Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu) <= delta``. The composition of ``T`` Gaussian
mechanisms is a Gaussian mechanism with ``mu sqrt(T)`` (Dong, Roth, Su 2022, corollary 3.3), so no accountant is
tighter. The classical ``sigma = sqrt(2 log(1.25/delta)) / epsilon`` holds for ``epsilon < 1`` only and is loose there.
"""

from __future__ import annotations

import math

from scipy.special import log_ndtr


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The smallest delta at this epsilon.

    Args:
        epsilon: at least 0.
        mu: sensitivity over standard deviation, at least 0.
    """
    if mu == 0:
        return 0.0
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return max(0.0, -math.exp(first) * math.expm1(min(0.0, second - first)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon at this delta, to a relative 1e-12, rounded up.

    Args:
        mu: sensitivity over standard deviation; times the root of the number of rounds for a composition.
        delta: in (0, 1).
    """
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2
    low = 0.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if gaussian_delta(middle, mu) > delta:
            low = middle
        else:
            high = middle
    return high


def gaussian_sigma(epsilon: float, delta: float, *, sensitivity: float = 1.0) -> float:
    """The smallest standard deviation that gives ``(epsilon, delta)``, to a relative 1e-12, rounded up.

    Args:
        epsilon: above 0.
        delta: in (0, 1).
        sensitivity: L2 sensitivity.
    """
    high = 1.0
    while gaussian_delta(epsilon, 1 / high) > delta:
        high *= 2
    low = high
    while gaussian_delta(epsilon, 1 / low) <= delta:
        low /= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if gaussian_delta(epsilon, 1 / middle) > delta:
            low = middle
        else:
            high = middle
    return high * sensitivity
