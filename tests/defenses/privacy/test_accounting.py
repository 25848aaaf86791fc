"""Epsilons against published figures and independent formulas."""

from __future__ import annotations

import math

import pytest
from scipy.optimize import minimize_scalar

from fedsec.defenses.privacy.accounting import amplification_rate, default_delta, epsilon_spent, noise_for
from fedsec.epsilon.gaussian import gaussian_epsilon


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "accountant", "epsilon"),
    [
        (1.3, 0.004, 3750, 1e-5, "rdp", 0.922),
        (1.3, 0.004, 3750, 1e-5, "prv", 0.844),
        (1.0, 0.1, 100, 1e-4, "prv", 5.98),
        (2.0, 0.1, 100, 1e-4, "prv", 1.98),
        (1.0, 0.2, 100, 1e-3, "prv", 10.6),
    ],
)
def test_known_values(noise: float, rate: float, steps: int, delta: float, accountant: str, epsilon: float) -> None:
    spent = epsilon_spent(noise_multiplier=noise, rate=rate, steps=steps, delta=delta, accountant=accountant)  # type: ignore[arg-type]
    assert spent == pytest.approx(epsilon, rel=0.01)


@pytest.mark.parametrize(("noise", "steps", "delta"), [(1.0, 1, 1e-5), (3.0, 40, 1e-3), (20.0, 40, 1e-4)])
def test_without_sampling(noise: float, steps: int, delta: float) -> None:
    """RDP over a continuum of orders, from the formula; and the exact composition below it."""

    def of_order(log_alpha: float) -> float:
        alpha = 1 + math.exp(log_alpha)
        rdp = steps * alpha / (2 * noise**2)
        return rdp + math.log1p(-1 / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1)

    continuous = minimize_scalar(of_order, bounds=(-5, 7), method="bounded").fun
    rdp = epsilon_spent(noise_multiplier=noise, rate=1.0, steps=steps, delta=delta, accountant="rdp")
    exact = epsilon_spent(noise_multiplier=noise, rate=1.0, steps=steps, delta=delta, accountant="prv")
    assert continuous * (1 - 1e-9) <= rdp <= continuous * 1.01
    assert exact < rdp < 1.5 * exact
    assert exact == gaussian_epsilon(math.sqrt(steps) / noise, delta)


def test_sampling_amplifies_and_rounds_compose() -> None:
    def spent(rate: float, steps: int) -> float:
        return epsilon_spent(noise_multiplier=1.0, rate=rate, steps=steps, delta=1e-3, accountant="rdp")

    assert spent(0.05, 20) < spent(0.2, 20) < spent(1.0, 20)
    assert spent(0.2, 10) < spent(0.2, 20) < 2 * spent(0.2, 10)
    assert spent(0.0, 20) == spent(0.5, 0) == 0.0


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(2.0, 0.1, 20), (8.0, 1.0, 40)])
def test_noise_for_a_budget(accountant: str, epsilon: float, rate: float, steps: int) -> None:
    def spent(noise: float) -> float:
        return epsilon_spent(noise_multiplier=noise, rate=rate, steps=steps, delta=1e-3, accountant=accountant)  # type: ignore[arg-type]

    noise = noise_for(epsilon=epsilon, rate=rate, steps=steps, delta=1e-3, accountant=accountant)  # type: ignore[arg-type]
    assert spent(noise) <= epsilon < spent(noise * (1 - 2e-4))


def test_budget_out_of_reach() -> None:
    with pytest.raises(ValueError, match="no amount of noise"):
        noise_for(epsilon=1e-7, rate=1.0, steps=100, delta=1e-9, accountant="rdp")


def test_no_claim_where_accountants_fail() -> None:
    with pytest.raises(ValueError, match="below"):
        epsilon_spent(noise_multiplier=0.01, rate=0.1, steps=1, delta=1e-3, accountant="rdp")


def test_only_poisson_sampling_amplifies() -> None:
    assert amplification_rate("poisson", 10, 100) == 0.1
    assert amplification_rate("fixed", 10, 100) == amplification_rate("all", 100, 100) == 1.0


def test_default_delta() -> None:
    assert default_delta(1000) == pytest.approx(1e-4)
    assert default_delta(10) == 1e-3
