"""Bounds from rates and the estimate from one training: integrals, known answers, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import trapezoid

from fedsec.epsilon.gaussian import gaussian_delta, gaussian_epsilon
from fedsec.epsilon.rates import (
    canary_epsilon_estimate,
    gaussian_rates_epsilon,
    hockey_stick,
    known_null_epsilon,
    rates_epsilon,
    two_normals_epsilon,
)

GRID = np.linspace(-40, 40, 100_001)


@settings(deadline=None, max_examples=25)
@given(st.floats(-4, 4), st.floats(0.3, 3.0), st.floats(0.0, 4.0), st.booleans())
def test_hockey_stick_is_the_integral(mean: float, std: float, epsilon: float, swap: bool) -> None:
    p, q = (0.0, 1.0), (mean, std)
    p, q = (q, p) if swap else (p, q)
    density = [stats.norm.pdf(GRID, *pair) for pair in (p, q)]
    slow = trapezoid(np.maximum(density[0] - math.exp(epsilon) * density[1], 0), GRID)
    assert hockey_stick(p, q, epsilon) == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("mu", [0.2, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5])
def test_equal_spread_is_the_gaussian_mechanism(mu: float, delta: float) -> None:
    assert two_normals_epsilon(mu, 1.0, delta=delta) == pytest.approx(gaussian_epsilon(mu, delta), rel=1e-6)
    assert hockey_stick((mu, 1.0), (0.0, 1.0), 1.3) == pytest.approx(gaussian_delta(1.3, mu), abs=1e-12)


def test_estimate_finds_the_epsilon_of_a_gaussian_mechanism_and_none_of_noise() -> None:
    random = np.random.default_rng(0)
    # the fitted spread biases it upwards by a few percent
    found = [canary_epsilon_estimate(random.normal(2.0, 1.0, 500), delta=1e-3) for _ in range(20)]
    assert np.mean(found) == pytest.approx(gaussian_epsilon(2.0, 1e-3), rel=0.15)
    none = [canary_epsilon_estimate(random.normal(0.0, 1.0, 500), delta=1e-3) for _ in range(20)]
    assert np.mean(none) < 0.5
    assert canary_epsilon_estimate([3.0, 3.0], delta=1e-3) == math.inf


def test_rates_by_hand() -> None:
    # 90 of 100 found, 5 of 100 accused: one-sided Clopper-Pearson at 97.5 % each
    true = stats.beta.ppf(0.025, 90, 11)
    false = stats.beta.ppf(0.975, 6, 95)
    at: dict[str, Any] = {"members": 100, "found": 90, "nonmembers": 100, "accused": 5}
    by_hand = max(math.log((true - 1e-5) / false), math.log((1 - false - 1e-5) / (1 - true)))
    assert rates_epsilon(**at, delta=1e-5) == pytest.approx(by_hand)
    mu = stats.norm.ppf(true) - stats.norm.ppf(false)
    assert gaussian_rates_epsilon(**at, delta=1e-5) == pytest.approx(gaussian_epsilon(mu, 1e-5))
    chance = {"members": 100, "found": 50, "nonmembers": 100, "accused": 50, "delta": 1e-5}
    assert rates_epsilon(**chance) == gaussian_rates_epsilon(**chance) == 0.0
    # telling non-members is as good as telling members
    other = {"members": 100, "found": 95, "nonmembers": 100, "accused": 10}
    assert rates_epsilon(**other, delta=0.0) == pytest.approx(rates_epsilon(**at, delta=0.0))


def test_known_null_is_tighter_than_estimating_both_rates() -> None:
    scores = np.random.default_rng(1).normal(3.0, 1.0, 400)
    known = known_null_epsilon(scores, delta=1e-5, thresholds=(2.0,))
    both = rates_epsilon(
        members=400, found=int((scores >= 2).sum()), nonmembers=400, accused=9, delta=1e-5
    )  # 400 P(N > 2) = 9.1
    assert both < known < gaussian_epsilon(3.0, 1e-5)
    # looking four times costs
    assert known_null_epsilon(scores, delta=1e-5, thresholds=(2.0,) * 4) < known


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: rates_epsilon(members=0, found=0, nonmembers=1, accused=0, delta=0.0), "members"),
        (lambda: rates_epsilon(members=5, found=6, nonmembers=1, accused=0, delta=0.0), "found"),
        (lambda: gaussian_rates_epsilon(members=5, found=5, nonmembers=1, accused=2, delta=0.1), "accused"),
        (lambda: rates_epsilon(members=5, found=5, nonmembers=1, accused=1, delta=1.0), "delta"),
        (lambda: known_null_epsilon([], delta=0.1), "scores"),
        (lambda: known_null_epsilon([math.nan], delta=0.1), "scores"),
        (lambda: known_null_epsilon([1.0], delta=0.1, thresholds=()), "thresholds"),
        (lambda: known_null_epsilon([1.0], delta=0.1, confidence=1.0), "confidence"),
        (lambda: canary_epsilon_estimate([1.0], delta=0.1), "scores"),
        (lambda: canary_epsilon_estimate([1.0, 2.0], delta=0.0), "delta"),
        (lambda: two_normals_epsilon(1.0, 0.0, delta=0.1), "std"),
    ],
)
def test_a_bad_argument_is_named(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must"):
        call()
