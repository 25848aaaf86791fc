"""Adaptive clipping: where the bound settles, what the pair of sums costs, and the mistakes that are made with both."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from fedsec.defenses.privacy.adaptive import AdaptiveClientLevelDP, next_clip_norm, noise_of_updates
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import RoundContext, Setting
from fedsec.randomness import generator

Contexts = Callable[..., RoundContext]
Settings = Callable[..., Setting]
N, D = 200, 5


def norms_of(clients: int) -> torch.Tensor:
    """Norms spread over two orders of magnitude; their median is 1."""
    return torch.logspace(-1, 1, clients, dtype=torch.float64)


def bound_after(context: Contexts, defense: AdaptiveClientLevelDP, rounds: int, *, chunk: int = N) -> list[float]:
    """The bound of each round for clients whose updates always have `norms_of`."""
    direction = torch.nn.functional.normalize(torch.randn(N, D, generator=generator("directions")), dim=1)
    values = (direction * norms_of(N)[:, None]).float()
    state: dict[str, torch.Tensor] = {}
    bounds = []
    for number in range(rounds):
        shared = {"round": number, "cohort": float(N), "state": state}
        for first in range(0, N, chunk):
            clients = tuple(range(first, min(first + chunk, N)))
            told = context(D, clients, **shared)
            defense.seal(Plain(values[first : first + chunk], torch.ones(len(clients))), told)
        told = context(D, (), **shared)
        defense.open(Plain(torch.zeros(1, D), torch.tensor([float(N)])), told)
        bounds.append(told.report["clip_norm"])
    return bounds


@pytest.mark.parametrize("start", [0.1, 10.0])
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_the_bound_converges_to_the_quantile(context: Contexts, start: float, quantile: float) -> None:
    """From a tenth of the median and from ten times it: within a tenth of the true quantile, and it stays there."""
    defense = AdaptiveClientLevelDP(clip_norm=start, quantile=quantile, count_noise=2.0)
    bounds = bound_after(context, defense, 160)
    true = float(torch.quantile(norms_of(N), quantile))
    assert bounds[0] == start
    assert all(abs(math.log(bound / true)) < 0.1 for bound in bounds[-40:])


def test_the_opposite_sign_runs_away(context: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed point is the share of the *unclipped*: with that of the clipped the same test fails."""
    from fedsec.defenses.privacy import adaptive

    def inverted(clip_norm: float, unclipped: float, *, quantile: float, rate: float) -> float:
        return next_clip_norm(clip_norm, 1 - unclipped, quantile=quantile, rate=rate)

    monkeypatch.setattr(adaptive, "next_clip_norm", inverted)
    assert bound_after(context, AdaptiveClientLevelDP(clip_norm=0.5), 100)[-1] < 1e-3
    assert bound_after(context, AdaptiveClientLevelDP(clip_norm=2.0), 100)[-1] > 1e3


def test_chunks_change_nothing(context: Contexts) -> None:
    one = bound_after(context, AdaptiveClientLevelDP(), 5)
    assert bound_after(context, AdaptiveClientLevelDP(), 5, chunk=37) == pytest.approx(one, rel=1e-12)


@given(st.floats(0.3, 5), st.floats(1.01, 50))
def test_updates_and_count_together_are_one_mechanism(noise: float, ratio: float) -> None:
    """The squares of sensitivity over noise add up to those of the accounted multiplier."""
    count_noise = ratio * noise / 2
    updates = noise_of_updates(noise, count_noise)
    assert updates > noise
    assert updates**-2 + (0.5 / count_noise) ** 2 == pytest.approx(noise**-2)


def test_updates_are_noised_for_the_bound_that_clipped_them(context: Contexts) -> None:
    d = 20_000
    state = {"clip_norm": torch.tensor(3.0, dtype=torch.float64)}
    told = context(d, (), cohort=40.0, state=state)
    defense = AdaptiveClientLevelDP(noise_multiplier=2.0, count_noise=4.0)
    opened = defense.open(Plain(torch.zeros(1, d), torch.tensor([40.0])), told)
    claimed = noise_of_updates(2.0, 4.0) * 3.0 / 40
    assert told.report["noise_std"] == pytest.approx(claimed)
    low, high = chi2.ppf([1e-4, 1 - 1e-4], d)
    assert low < float((opened.values.double() ** 2).sum()) / claimed**2 < high
    assert float(state["clip_norm"]) != 3.0


def test_an_empty_round_moves_the_bound_by_noise_alone(context: Contexts) -> None:
    """Missing bits are neither clipped nor unclipped."""
    told = context(D, (), cohort=100.0)
    AdaptiveClientLevelDP(count_noise=1.0).open(Plain(torch.zeros(1, D), torch.zeros(1)), told)
    assert abs(told.report["unclipped_share"] - 0.5) < 0.05


def test_claims_are_those_of_the_accounted_multiplier(setting: Settings) -> None:
    fixed = ClientLevelDP(noise_multiplier=1.0).claims(setting())
    adaptive = AdaptiveClientLevelDP(noise_multiplier=1.0).claims(setting())
    assert adaptive["epsilon"] == fixed["epsilon"]
    assert float(adaptive["noise_multiplier_of_updates"]) == pytest.approx((1 - 0.01) ** -0.5)
    assert "noise_std" not in adaptive


def test_refusals(setting: Settings) -> None:
    assert not AdaptiveClientLevelDP().problems(setting())
    ((found, instead),) = AdaptiveClientLevelDP().problems(setting(cohort=5))
    assert "spends more" in found
    assert "count_noise: 1" in instead
    assert not AdaptiveClientLevelDP(count_noise=1.0).problems(setting(cohort=5))
    assert "krum replaces" in AdaptiveClientLevelDP().problems(setting(stack=("dp-client-adaptive", "krum")))[0][0]
