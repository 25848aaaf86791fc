"""Local DP: noise of the claimed size, drawn per client, and an epsilon that adds up."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chi2, norm

from fedsec.defenses.privacy.local import LocalDP
from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.errors import ConfigurationError
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import RoundContext, Setting
from fedsec.randomness import generator

Contexts = Callable[..., RoundContext]
Settings = Callable[..., Setting]


def payload(n: int, d: int) -> Plain:
    return Plain(torch.randn(n, d, generator=generator("local", n, d)), torch.arange(1.0, n + 1))


def test_noise_has_the_claimed_size_and_clients_differ(context: Contexts, setting: Settings) -> None:
    d, n = 10_000, 3
    defense = LocalDP(clip_norm=0.7, noise_multiplier=1.5)
    sealed = defense.seal(Plain(torch.zeros(n, d), torch.ones(n)), context(d, (4, 9, 2)))
    claimed = float(defense.claims(setting())["noise_std"])
    assert claimed == pytest.approx(0.7 * 1.5)
    statistic = float((sealed.values.double() ** 2).sum()) / claimed**2
    low, high = chi2.ppf([1e-4, 1 - 1e-4], n * d)
    assert low < statistic < high
    correlation = torch.corrcoef(sealed.values)
    assert (correlation - torch.eye(n)).abs().max() < 5 / math.sqrt(d)


def test_chunks_and_order_change_nothing(context: Contexts) -> None:
    update, clients = payload(5, 40), (7, 3, 11, 0, 5)
    defense = LocalDP()
    whole = defense.seal(update, context(40, clients)).values
    for part in ([0, 1], [2], [4, 3]):
        chunk = defense.seal(update.rows(part), context(40, tuple(clients[i] for i in part))).values
        assert torch.equal(chunk, whole[part])
    assert not torch.equal(whole, defense.seal(update, context(40, clients, round=1)).values)


def test_clips_before_noise_and_hides_the_weight(context: Contexts) -> None:
    update = payload(4, 2000)
    defense = LocalDP(clip_norm=0.3, noise_multiplier=0.5)
    sealed = defense.seal(update, context(2000, (0, 1, 2, 3)))
    quiet = defense.seal(Plain(torch.zeros(4, 2000), torch.ones(4)), context(2000, (0, 1, 2, 3)))
    bare = sealed.values - quiet.values
    assert torch.allclose(bare.norm(dim=1), torch.full((4,), 0.3), rtol=1e-4)
    assert torch.nn.functional.cosine_similarity(bare, update.values).min() > 0.9999
    assert torch.equal(sealed.weights, torch.ones(4))


def test_no_rows(context: Contexts) -> None:
    assert len(LocalDP().seal(Plain(torch.zeros(0, 5), torch.zeros(0)), context(5, ()))) == 0


@pytest.mark.parametrize(("adjacency", "sensitivity"), [("replace-one", 2.0), ("zero-out", 1.0)])
def test_claims(setting: Settings, adjacency: str, sensitivity: float) -> None:
    claims = LocalDP(noise_multiplier=8.0, adjacency=adjacency).claims(setting(rounds=30))  # type: ignore[arg-type]
    assert claims["delta"] == pytest.approx(1e-4)
    assert claims["epsilon_per_round"] == gaussian_epsilon(sensitivity / 8.0, 1e-4)
    assert claims["epsilon"] == gaussian_epsilon(math.sqrt(30) * sensitivity / 8.0, 1e-4)
    assert float(claims["epsilon"]) < float(claims["epsilon_rdp"]) < 1.5 * float(claims["epsilon"])
    assert float(claims["epsilon"]) < 30 * float(claims["epsilon_per_round"])
    assert claims["expected_participations"] == pytest.approx(3.0)


def test_budget_per_round(setting: Settings, context: Contexts) -> None:
    defense = LocalDP(epsilon_per_round=2.0)
    claims = defense.claims(setting())
    assert claims["epsilon_per_round"] == pytest.approx(2.0, rel=1e-6)
    told = context(5, (0,), population=1000)
    defense.seal(payload(1, 5), told)
    assert told.report["noise_std"] == claims["noise_std"]
    with pytest.raises(ConfigurationError, match="each determines the other"):
        LocalDP(epsilon_per_round=1.0, noise_multiplier=1.0)


def test_best_test_stays_below_the_claim(setting: Settings) -> None:
    """The likelihood-ratio test between neighbours, of any threshold, shows no more than epsilon."""
    noise, rounds, delta = 4.0, 5, 1e-4
    claims = LocalDP(noise_multiplier=noise).claims(setting(rounds=rounds))
    mu = 2 * math.sqrt(rounds) / noise
    shown = []
    for threshold in [x / 50 for x in range(-100, 350)]:
        hit, false = float(norm.sf(threshold - mu)), float(norm.sf(threshold))
        if hit > delta and false > 0:
            shown.append(math.log((hit - delta) / false))
    assert max(shown) <= float(claims["epsilon"])
    assert max(shown) > 0.95 * float(claims["epsilon"])


def test_averaging_over_rounds_uncovers_a_constant_update(context: Contexts) -> None:
    """What composition means: noise is fresh each round, so a client that repeats itself is read in the end."""
    d, rounds = 50, 400
    secret = torch.nn.functional.normalize(torch.ones(1, d))
    defense = LocalDP(noise_multiplier=1.0)
    seen = torch.stack(
        [defense.seal(Plain(secret, torch.ones(1)), context(d, (0,), round=r)).values[0] for r in range(rounds)]
    )
    errors = [(seen[:k].mean(0) - secret[0]).norm() for k in (1, rounds)]
    assert errors[1] < 0.1 * errors[0]


def test_refusals(setting: Settings) -> None:
    assert not LocalDP().problems(setting())
    assert "batch-norm" in LocalDP().problems(setting(has_batch_norm=True))[0][0]
    assert "not below 1/10" in LocalDP(delta=0.2).problems(setting(population=10, cohort=10))[0][0]
