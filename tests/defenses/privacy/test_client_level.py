"""DP-FedAvg: what the server sees, what it publishes, and what is claimed for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from fedsec.defenses.encryption.ckks import CKKS
from fedsec.defenses.privacy.client_level import ClientLevelDP, noisy_mean
from fedsec.errors import ConfigurationError
from fedsec.protocol.compose import check_stack
from fedsec.protocol.payload import Plain, Sealed
from fedsec.protocol.stage import RoundContext, Setting
from fedsec.randomness import generator

Contexts = Callable[..., RoundContext]
Settings = Callable[..., Setting]


def updates(n: int, d: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, d, generator=generator("updates", n, d))


def mean_of(payload: Plain) -> Plain:
    total = payload.weights.sum()
    return Plain((payload.weights @ payload.values / total)[None], total[None])


def test_server_side_dp_does_not_protect_against_the_server(context: Contexts) -> None:
    """Whoever receives the upload reads the update exactly, but for its length."""
    values = updates(3, 50, 0.01)
    values[2] *= 1000
    sealed = ClientLevelDP(clip_norm=1.0).seal(Plain(values, torch.tensor([3.0, 5.0, 9.0])), context(50, (0, 1, 2)))
    assert torch.equal(sealed.values[:2], values[:2])
    assert torch.nn.functional.cosine_similarity(sealed.values[2], values[2], dim=0) > 1 - 1e-6
    assert sealed.values[2].norm() <= 1.0
    assert torch.equal(sealed.weights, torch.ones(3))


def test_noise_has_the_claimed_size(context: Contexts) -> None:
    d = 20_000
    told = context(d, (0, 1, 2, 3), cohort=4.0)
    defense = ClientLevelDP(clip_norm=0.5, noise_multiplier=2.0)
    opened = defense.open(Plain(torch.zeros(1, d), torch.tensor([4.0])), told)
    claimed = 2.0 * 0.5 / 4
    statistic = float((opened.values.double() ** 2).sum()) / claimed**2
    low, high = chi2.ppf([1e-4, 1 - 1e-4], d)
    assert low < statistic < high
    assert told.report["noise_std"] == claimed


@pytest.mark.parametrize("realised", [0, 1, 7])
def test_denominator_is_the_expected_cohort(context: Contexts, realised: int) -> None:
    """Removing a client moves the result by at most clip_norm / denominator, whoever else came."""
    d, told = 30, context(30, (), cohort=5.0)
    defense = ClientLevelDP(clip_norm=1.0, noise_multiplier=0.05)
    values = defense.seal(Plain(updates(realised, d, 0.01), torch.full((realised,), 17.0)), told)
    aggregate = mean_of(values) if realised else Plain(torch.zeros(1, d), torch.zeros(1))
    opened = defense.open(aggregate, told)
    noise = noisy_mean(
        torch.zeros(d), total_weight=0, denominator=5.0, noise_std=0.05, generator=told.generator("noise")
    )
    assert torch.allclose(opened.values[0] - noise, values.values.sum(0) / 5, atol=1e-7)
    assert float(opened.weights[0]) == 5.0
    assert noise.abs().max() > 0


def test_each_round_and_each_federation_draws_its_own_noise(context: Contexts) -> None:
    defense, zero = ClientLevelDP(), Plain(torch.zeros(1, 10), torch.ones(1))
    draws = [
        defense.open(zero, context(10, **{"clients": (0,), **changes})).values
        for changes in ({}, {}, {"round": 1}, {"seed": 6}, {"clients": (1,)})
    ]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[4])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_zero_update(context: Contexts) -> None:
    sealed = ClientLevelDP().seal(Plain(torch.zeros(2, 4), torch.ones(2)), context(4, (0, 1)))
    assert torch.equal(sealed.values, torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("changes", "defense", "epsilon"),
    [
        ({}, ClientLevelDP(noise_multiplier=1.0), 5.98),
        ({}, ClientLevelDP(noise_multiplier=2.0), 1.98),
        ({"population": 100, "cohort": 20}, ClientLevelDP(noise_multiplier=1.0), 10.6),
    ],
)
def test_known_claims(setting: Settings, changes: dict[str, float], defense: ClientLevelDP, epsilon: float) -> None:
    claims = defense.claims(setting(**changes))
    assert claims["epsilon"] == pytest.approx(epsilon, rel=0.01)
    assert claims["unit"] == "client"
    assert claims["adjacency"] == "add or remove one client"
    assert "poisson, rate" in str(claims["sampler"])
    assert "caveat" not in claims


def test_fixed_cohorts_claim_no_amplification(setting: Settings) -> None:
    poisson, fixed, everyone = (
        ClientLevelDP().claims(setting(sampling=s, cohort=c))
        for s, c in (("poisson", 100), ("fixed", 100), ("all", 1000))
    )
    assert fixed["epsilon"] == everyone["epsilon"]
    assert float(fixed["epsilon"]) > 5 * float(poisson["epsilon"])
    assert "no amplification" in str(fixed["sampler"])
    assert "zero-out" in str(fixed["adjacency"])
    assert "caveat" in ClientLevelDP().claims(setting(population=10, cohort=10))


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_budget_sets_the_noise(setting: Settings, context: Contexts, accountant: str) -> None:
    where = {"population": 50, "cohort": 10.0, "rounds": 20}
    defense = ClientLevelDP(epsilon=4.0, accountant=accountant)  # type: ignore[arg-type]
    claims = defense.claims(setting(**where))
    assert 3.99 < float(claims["epsilon"]) <= 4.0
    told = context(10, (), **where)
    defense.open(Plain(torch.zeros(1, 10), torch.ones(1)), told)
    assert told.report["noise_std"] == claims["noise_std"]


def test_refusals(setting: Settings) -> None:
    assert not ClientLevelDP().problems(setting())
    ((found, instead),) = ClientLevelDP().problems(setting(has_batch_norm=True))
    assert "batch-norm" in found
    assert "group norm" in instead
    ((found, instead),) = ClientLevelDP(delta=0.01).problems(setting())
    assert "not below 1/1000" in found
    assert "delta: 0.0001" in instead
    ((found, instead),) = ClientLevelDP(epsilon=1e-7).problems(setting())
    assert "no amount of noise" in found
    with pytest.raises(ConfigurationError, match="each determines the other"):
        ClientLevelDP(epsilon=1.0, noise_multiplier=1.0)


def test_refuses_rules_that_are_no_mean(setting: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsec.defenses.privacy import setting as module
    from fedsec.protocol.stage import Defense

    class Rule(Defense):
        name = "rule"

        def aggregate(self, cohort: object, context: object) -> Plain:  # type: ignore[override]
            raise NotImplementedError

    class Entry:
        def __init__(self, name: str, plugin: type[Defense]) -> None:
            self.name, self._plugin = name, plugin

        def load(self) -> type[Defense]:
            return self._plugin

    monkeypatch.setattr(module, "entry_points", lambda group: [Entry("rule", Rule), Entry("dp-client", ClientLevelDP)])
    ((found, instead),) = ClientLevelDP().problems(setting(stack=("dp-client", "rule")))
    assert "rule replaces the mean" in found
    assert "leave rule out" in instead
    assert not ClientLevelDP().problems(setting(stack=("dp-client",)))


@pytest.mark.parametrize("mixer", ["nnm", "bucketing", "arc"])
def test_refuses_stages_that_mix_updates_before_the_mean(setting: Settings, mixer: str) -> None:
    ((found, instead),) = ClientLevelDP().problems(setting(stack=("dp-client", mixer)))
    assert f"{mixer} replaces the mean or what is averaged" in found
    assert f"leave {mixer} out" in instead


def test_under_encryption(context: Contexts, setting: Settings) -> None:
    """Clip, encrypt, sum, decrypt, noise: the same as in clear, to the resolution of the grid."""
    d, n = 300, 6
    dp, ckks = ClientLevelDP(clip_norm=1.0), CKKS(poly_modulus=4096)
    assert not check_stack([dp, ckks], setting(cohort=6, stack=("dp-client", "ckks")))
    told, keys = context(d, tuple(range(n))), context(d, tuple(range(n)))
    clipped = dp.seal(Plain(updates(n, d), torch.full((n,), 40.0)), told)
    sealed = ckks.seal(clipped, keys)
    accumulator = sealed.scheme.start(sealed.ciphertexts[0])
    for row in sealed.ciphertexts[1:]:
        accumulator = sealed.scheme.add(accumulator, row)
    total = Sealed((sealed.scheme.finish(accumulator),), sealed.scheme, sealed.holders, n)
    with pytest.raises(TypeError, match="before sealing"):
        dp.open(total, told)
    opened = dp.open(ckks.open(total, keys), told)
    in_clear = dp.open(mean_of(clipped), told)
    assert (opened.values - in_clear.values).abs().max() < 2**-20
    assert opened.values.dtype == torch.float32
