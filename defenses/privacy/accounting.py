"""What a sampled Gaussian mechanism costs over a training, and how much noise a budget needs.

Opacus' accountants assume Poisson sampling. Without it no amplification is claimed (rate 1), and the exact formula
of the Gaussian mechanism takes the place of numerical composition.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Annotated, Literal

from pydantic import Field

from fedsec.epsilon.gaussian import gaussian_epsilon

Accountant = Literal["rdp", "prv"]
Accounting = Annotated[
    Accountant, Field(description="`prv` (tight, numerical; exact without sampling) or `rdp` (a looser bound)")
]

_ORDERS = (*(1 + step / 10 for step in range(1, 100)), *range(11, 64), *range(64, 128, 8), *range(128, 513, 32))
"""Renyi orders, up to 512 because small epsilons have their optimum at large orders."""
_SMALLEST = 0.05
"""Below this noise multiplier the series of the accountants lose their precision."""
_RELATIVE = 0.004
"""Error that numerical composition may have, as a share of the Renyi bound."""


def default_delta(population: int) -> float:
    """``1 / (10 population)``, and at most 1e-3: a delta of a percent would say nothing about ten clients."""
    return min(1e-3, 1 / (10 * population))


def amplification_rate(sampling: str, cohort: float, population: int) -> float:
    """The rate that the accountant may use: the sampling rate under Poisson sampling, else 1.

    Args:
        sampling: ``poisson``, ``fixed`` or ``all``.
        cohort: clients expected per round.
        population: number of clients.
    """
    return min(1.0, cohort / population) if sampling == "poisson" else 1.0


@functools.lru_cache(maxsize=1024)
def epsilon_spent(*, noise_multiplier: float, rate: float, steps: int, delta: float, accountant: Accountant) -> float:
    """Epsilon of ``steps`` rounds.

    Args:
        noise_multiplier: standard deviation of the noise in the sum over the sensitivity; at least 0.05.
        rate: Poisson sampling rate; 1 is no sampling.
        steps: rounds.
        delta: in (0, 1).
        accountant: ``rdp`` (Mironov et al. 2019, conversion of Balle et al. 2020) or ``prv`` (Gopi et al. 2021, upper
            end of its error; exact for rate 1).
    """
    if steps == 0 or rate == 0:
        return 0.0
    if noise_multiplier < _SMALLEST:
        raise ValueError(f"a noise multiplier of {noise_multiplier:g} is below {_SMALLEST}, where accountants fail")
    if accountant == "prv" and rate == 1:
        return gaussian_epsilon(math.sqrt(steps) / noise_multiplier, delta)
    from opacus.accountants import PRVAccountant, RDPAccountant

    with warnings.catch_warnings():
        # an order at the end of the range gives a looser bound, still a bound
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        # densities outside of the support are computed and then discarded
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"opacus\.accountants\.analysis\.prv")
        renyi = RDPAccountant()
        renyi.history = [(noise_multiplier, rate, steps)]
        bound = max(0.0, float(renyi.get_epsilon(delta=delta, alphas=list(_ORDERS))))
        if accountant == "rdp":
            return bound
        numerical = PRVAccountant()
        numerical.history = [(noise_multiplier, rate, steps)]
        # what is claimed is the upper end: an error of 0.01 would be more than a percent of a small epsilon
        error = min(0.01, max(1e-4, _RELATIVE * bound))
        return float(numerical.get_epsilon(delta=delta, eps_error=error))


@functools.lru_cache(maxsize=256)
def noise_for(*, epsilon: float, rate: float, steps: int, delta: float, accountant: Accountant) -> float:
    """The smallest noise multiplier, to a relative 1e-4 and rounded up, whose epsilon is at most the target.

    Args:
        epsilon: target, above 0.
        rate: see `epsilon_spent`.
        steps: see `epsilon_spent`.
        delta: see `epsilon_spent`.
        accountant: see `epsilon_spent`.

    Raises:
        ValueError: no multiplier up to 1e6 is enough.
    """

    def spent(noise: float) -> float:
        return epsilon_spent(noise_multiplier=noise, rate=rate, steps=steps, delta=delta, accountant=accountant)

    high = 1.0
    if accountant == "prv" and rate < 1:
        high = noise_for(epsilon=epsilon, rate=rate, steps=steps, delta=delta, accountant="rdp")
    while spent(high) > epsilon:
        high *= 2
        if high > 1e6:
            raise ValueError(f"no amount of noise gives epsilon {epsilon:g} at delta {delta:g} in {steps} rounds")
    low = high
    while spent(low) <= epsilon:
        high, low = low, low / 2
        if low < _SMALLEST:
            if spent(_SMALLEST) <= epsilon:
                return _SMALLEST
            low = _SMALLEST
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        if spent(middle) > epsilon:
            low = middle
        else:
            high = middle
    return high
