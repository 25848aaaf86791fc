"""The bound by the whole trade-off curve: a linear programme as slow truth, ties to the pure bound, monotonicity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.epsilon.one_run import one_run_epsilon
from fedsec.epsilon.tradeoff import (
    approximate,
    f_dp_one_run_epsilon,
    f_dp_one_run_gaussian_epsilon,
    f_dp_one_run_mu,
    gaussian,
    refuted,
)


def worst_tail(m: int, r: int, c: int, lines: list[tuple[float, float]]) -> float:
    """Largest probability of ``c`` right guesses or more, with ``F(x) = min(1, a + b x)`` over the lines."""
    rows, ends = [], []
    for i in range(r):
        for intercept, slope in lines:
            # R_{i+1} <= a + b H_i
            row = [(k / m if k >= i + 1 else 0.0) - (slope * (r - k) / m if k >= i else 0.0) for k in range(r + 1)]
            rows.append(row)
            ends.append(intercept)
    aim = [-1.0 if k >= c else 0.0 for k in range(r + 1)]
    found = linprog(aim, A_ub=rows, b_ub=ends, A_eq=[[1.0] * (r + 1)], b_eq=[1.0], method="highs")
    assert found.success
    return -float(found.fun)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.floats(0.0, 3.0), st.floats(0.0, 0.1))
def test_agrees_with_the_linear_programme(m: int, r: int, c: int, epsilon: float, delta: float) -> None:
    r, c = min(r, m), min(c, r, m)
    e = math.exp(epsilon)
    worst = worst_tail(m, r, c, [(delta, e), (1 - (1 - delta) / e, 1 / e)])
    at = {"canaries": m, "guesses": r, "correct": c}
    strength = np.array([epsilon])
    if worst < 0.999:
        assert refuted(approximate(delta), strength, level=min(1.0, worst * 1.01 + 1e-6), **at)[0]
    assert not refuted(approximate(delta), strength, level=worst * 0.99 - 1e-9, **at)[0]


@settings(deadline=None, max_examples=50)
@given(st.floats(0.0, 1.0), st.floats(0.0, 4.0), st.floats(0.0, 0.2))
def test_inverses_invert(x: float, strength: float, delta: float) -> None:
    s = np.array([strength])
    e = math.exp(strength)
    y = min(1.0, delta + e * x, 1 - (1 - delta - x) / e)
    back = approximate(delta)(np.array([y]), s)[0]
    # the smallest of the points with this value
    assert back <= x + 1e-9
    assert min(1.0, delta + e * back, 1 - (1 - delta - back) / e) >= y - 1e-9
    z = float(stats.norm.cdf(stats.norm.ppf(x) + strength))
    if 1e-6 < z < 1 - 1e-6:
        assert gaussian(np.array([z]), s)[0] == pytest.approx(x, abs=1e-6)
    assert gaussian(np.array([0.0]), s)[0] == 0.0


@pytest.mark.parametrize(("m", "r"), [(10, 10), (100, 60), (300, 50)])
def test_perfect_guesses_against_pure_privacy_give_the_bound_of_steinke(m: int, r: int) -> None:
    at = {"canaries": m, "guesses": r, "correct": r, "delta": 0.0}
    assert f_dp_one_run_epsilon(**at) == pytest.approx(one_run_epsilon(**at), abs=1e-3)


def test_with_delta_it_is_better_than_steinke_and_gaussian_better_still() -> None:
    at = {"canaries": 500, "guesses": 125, "correct": 115, "delta": 1e-3}
    steinke, whole, normal = one_run_epsilon(**at), f_dp_one_run_epsilon(**at), f_dp_one_run_gaussian_epsilon(**at)
    assert 1.2 * steinke < whole < normal
    mu = f_dp_one_run_mu(canaries=500, guesses=125, correct=115)
    assert normal == pytest.approx(gaussian_epsilon(mu, 1e-3))


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 60), st.integers(1, 60), st.floats(0.0, 0.01))
def test_monotone(m: int, c: int, delta: float) -> None:
    c = min(c, m - 1)
    one = f_dp_one_run_epsilon(canaries=m, guesses=m, correct=c, delta=delta)
    tolerance = 1e-5 * (1 + one)
    assert one <= f_dp_one_run_epsilon(canaries=m, guesses=m, correct=c + 1, delta=delta) + tolerance
    assert f_dp_one_run_epsilon(canaries=m, guesses=m, correct=c, delta=delta + 0.01) <= one + tolerance
    assert f_dp_one_run_epsilon(canaries=m, guesses=m, correct=c, delta=delta, confidence=0.99) <= one + tolerance
    assert f_dp_one_run_epsilon(canaries=2 * m, guesses=m, correct=c, delta=delta) <= one + tolerance


@pytest.mark.parametrize("function", [f_dp_one_run_epsilon, f_dp_one_run_gaussian_epsilon])
@pytest.mark.parametrize(
    ("bad", "named"), [({"canaries": 0}, "canaries"), ({"guesses": 200}, "guesses"), ({"correct": -1}, "correct"),
                       ({"confidence": 2.0}, "confidence")]
)  # fmt: skip
def test_a_bad_argument_is_named(function: Any, bad: dict[str, Any], named: str) -> None:
    good: dict[str, Any] = {"canaries": 100, "guesses": 50, "correct": 40, "delta": 1e-5, "confidence": 0.95}
    with pytest.raises(ValueError, match=f"^{named} must"):
        function(**{**good, **bad})


def test_a_bad_delta_is_named() -> None:
    with pytest.raises(ValueError, match=r"^delta must"):
        f_dp_one_run_epsilon(canaries=10, guesses=5, correct=5, delta=1.0)
