"""The one-run bound: values from the published algorithm, an exact slow truth, its ceiling, and what it refuses."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.epsilon.one_run import one_run_ceiling, one_run_epsilon, one_run_p_value, pure_ceiling
from fedsec.measure import one_run_epsilon as public

NOTES = [
    (1000, 100, 100, 0.0, 3.493),
    (1000, 100, 100, 1e-5, 3.465),
    (1000, 100, 100, 1e-3, 0.809),
    (1000, 1000, 1000, 1e-5, 5.782),
    (1000, 200, 150, 1e-5, 0.820),
    (5000, 100, 95, 1e-5, 2.135),
    (1000, 1000, 550, 1e-5, 0.094),
]


@pytest.mark.parametrize(("m", "r", "v", "delta", "expected"), NOTES)
def test_values_of_the_published_algorithm_to_three_digits(
    m: int, r: int, v: int, delta: float, expected: float
) -> None:
    assert round(public(canaries=m, guesses=r, correct=v, delta=delta), 3) == pytest.approx(expected, abs=1e-12)


def slow_p_value(m: int, r: int, v: int, odds: int, delta: Fraction) -> Fraction:
    """Theorem 5.2 in exact arithmetic at ``e^epsilon = odds``."""
    right = Fraction(odds, odds + 1)
    pmf = [math.comb(r, k) * right**k * (1 - right) ** (r - k) for k in range(r + 1)]
    tail = sum(pmf[v:], Fraction(0))
    slopes = [sum(pmf[v - i : v], Fraction(0)) / i for i in range(1, v + 1)]
    return min(Fraction(1), tail + 2 * m * delta * max(slopes, default=Fraction(0)))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 25), st.integers(0, 25), st.integers(0, 25), st.integers(1, 9), st.sampled_from([0, 1, 10, 500]))
def test_p_value_agrees_with_exact_arithmetic(m: int, r: int, v: int, odds: int, parts: int) -> None:
    r, v = min(r, m), min(v, r, m)
    exact = slow_p_value(m, r, v, odds, Fraction(parts, 10_000))
    found = one_run_p_value(canaries=m, guesses=r, correct=v, epsilon=math.log(odds), delta=parts / 10_000)
    assert found == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1e-2), st.floats(0.5, 0.999))
def test_the_bound_is_where_the_p_value_crosses(m: int, v: int, delta: float, confidence: float) -> None:
    v = min(v, m)
    bound = one_run_epsilon(canaries=m, guesses=m, correct=v, delta=delta, confidence=confidence)
    level = 1 - confidence

    def p(epsilon: float) -> float:
        return one_run_p_value(canaries=m, guesses=m, correct=v, epsilon=epsilon, delta=delta)

    assert p(bound + 1e-6) > level * (1 - 1e-9)
    if bound > 0:
        assert p(bound) <= level
    else:
        assert p(1e-6) > level * (1 - 1e-6)


def test_more_canaries_and_more_delta_weaken_it() -> None:
    def bound(**changes: Any) -> float:
        return one_run_epsilon(**{"canaries": 500, "guesses": 100, "correct": 90, "delta": 1e-4, **changes})

    assert bound(canaries=5000) < bound() < bound(delta=0.0)
    assert bound(canaries=5000, delta=0.0) == bound(delta=0.0)
    assert bound(correct=80) < bound() < bound(correct=95)
    assert bound(confidence=0.99) < bound()
    assert bound(correct=50) == bound(correct=0) == 0.0


@pytest.mark.parametrize("r", [5, 100, 1000])
def test_ceiling_has_a_closed_form_without_delta(r: int) -> None:
    ceiling = one_run_ceiling(canaries=2 * r, guesses=r, delta=0.0)
    assert ceiling == pytest.approx(-math.log(0.05 ** (-1 / r) - 1), abs=1e-6)
    assert ceiling == pytest.approx(pure_ceiling(r), abs=1e-6)
    assert one_run_ceiling(canaries=2 * r, guesses=r, delta=1e-3) < ceiling


def test_no_guesses_say_nothing() -> None:
    assert one_run_epsilon(canaries=10, guesses=0, correct=0, delta=0.0) == 0.0
    assert pure_ceiling(0) == pure_ceiling(1) == 0.0


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"canaries": 0}, "canaries"),
        ({"canaries": 10.5}, "canaries"),
        ({"guesses": 101}, "guesses"),
        ({"guesses": -1}, "guesses"),
        ({"correct": 51}, "correct"),
        ({"correct": -1}, "correct"),
        ({"delta": -1e-9}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"confidence": 0.0}, "confidence"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_a_bad_argument_is_named(bad: dict[str, Any], named: str) -> None:
    good: dict[str, Any] = {"canaries": 100, "guesses": 50, "correct": 40, "delta": 1e-5, "confidence": 0.95}
    with pytest.raises(ValueError, match=f"^{named} must"):
        one_run_epsilon(**{**good, **bad})
