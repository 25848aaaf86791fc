"""The analytic Gaussian mechanism against numerical integration and published values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from fedsec.epsilon.gaussian import gaussian_delta, gaussian_epsilon, gaussian_sigma


def integrated_delta(epsilon: float, mu: float) -> float:
    """The hockey-stick divergence of N(mu, 1) from N(0, 1), by quadrature from where the integrand is positive."""
    start = epsilon / mu + mu / 2
    value, _ = quad(lambda x: norm.pdf(x - mu) - math.exp(epsilon) * norm.pdf(x), start, max(start, mu) + 12)
    return float(value)


@settings(deadline=None, max_examples=40)
@given(epsilon=st.floats(0, 8), mu=st.floats(0.1, 5))
def test_delta_is_the_hockey_stick_divergence(epsilon: float, mu: float) -> None:
    assert gaussian_delta(epsilon, mu) == pytest.approx(integrated_delta(epsilon, mu), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("epsilon", "delta", "sigma"),
    [(1.0, 1e-5, 3.730631634815975)],  # the authors' own implementation
)
def test_published_sigma(epsilon: float, delta: float, sigma: float) -> None:
    assert gaussian_sigma(epsilon, delta) == pytest.approx(sigma, rel=1e-8)
    assert gaussian_sigma(epsilon, delta, sensitivity=2.5) == pytest.approx(2.5 * sigma, rel=1e-8)


@settings(deadline=None, max_examples=40)
@given(epsilon=st.floats(0.05, 20), delta=st.floats(1e-9, 1e-2))
def test_sigma_is_the_smallest(epsilon: float, delta: float) -> None:
    sigma = gaussian_sigma(epsilon, delta)
    assert gaussian_delta(epsilon, 1 / sigma) <= delta < gaussian_delta(epsilon, 1 / (sigma * (1 - 1e-6)))
    assert gaussian_epsilon(1 / sigma, delta) == pytest.approx(epsilon, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(epsilon=st.floats(0.05, 0.999), delta=st.floats(1e-9, 1e-3))
def test_never_more_noise_than_the_classical_formula(epsilon: float, delta: float) -> None:
    assert gaussian_sigma(epsilon, delta) < math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def test_classical_formula_breaks_its_promise_at_large_epsilon() -> None:
    """Why it is not used: at epsilon 20 its noise gives a delta a hundred times the one it names."""
    delta = 1e-5
    classical = math.sqrt(2 * math.log(1.25 / delta)) / 20
    assert gaussian_delta(20, 1 / classical) > 100 * delta


def test_ends() -> None:
    assert gaussian_delta(1.0, 0.0) == 0.0
    assert gaussian_epsilon(1e-9, 1e-3) == 0.0
    assert gaussian_epsilon(1000.0, 1e-5) > 1000**2 / 2
