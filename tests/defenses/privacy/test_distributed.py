"""The distributed discrete Gaussian: exact draws, whole sums on the grid of the stage behind, and its bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedsec.defenses.privacy.discrete_gaussian import (
    discrete_gaussian,
    discrete_laplace,
    not_quite_gaussian,
    rounded,
    rounded_norm,
    sum_epsilon,
)
from fedsec.defenses.privacy.distributed import DistributedDP, Lattice
from fedsec.errors import ConfigurationError
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import RoundContext, Setting
from fedsec.randomness import generator

Contexts = Callable[..., RoundContext]
Settings = Callable[..., Setting]
BEHIND = ("dp-distributed", "secure-aggregation")


def fits(drawn: np.ndarray, chance: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Chi-square of counts against exact chances, tails joined."""
    low, high = int(np.quantile(drawn, 0.001)), int(np.quantile(drawn, 0.999))
    support = np.arange(-10_000, 10_001)
    exact = chance(support.astype(float))
    exact = exact / exact.sum()
    inside = (support >= low) & (support <= high)
    expected = np.append(exact[inside], exact[~inside].sum()) * len(drawn)
    counts = np.bincount(np.clip(drawn, low, high + 1) - low, minlength=high - low + 2)[: high - low + 1]
    counts[0] = int((drawn == low).sum())
    observed = np.append(counts, len(drawn) - counts.sum())
    return chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("variance", [1, 2, 7, 100, 40_000])
def test_draws_are_discrete_gaussian(variance: int) -> None:
    drawn = discrete_gaussian(variance, 100_000, np.random.default_rng(variance))
    assert len(drawn) == 100_000
    assert drawn.dtype == np.int64
    assert fits(drawn, lambda k: np.exp(-(k**2) / (2 * variance)))


def test_draws_of_the_largest_variance_do_not_overflow() -> None:
    drawn = discrete_gaussian(1 << 26, 20_000, np.random.default_rng(1)) / 2.0**13
    assert abs(drawn.mean()) < 4 / math.sqrt(20_000)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / 20_000)
    assert np.abs(drawn).max() < 6
    with pytest.raises(ValueError, match="whole number"):
        discrete_gaussian(0, 3, np.random.default_rng(1))
    assert len(discrete_gaussian(5, 0, np.random.default_rng(1))) == 0


@pytest.mark.parametrize("scale", [1, 5])
def test_laplace_candidates(scale: int) -> None:
    drawn = discrete_laplace(scale, 200_000, np.random.default_rng(scale))
    assert fits(drawn, lambda k: np.exp(-np.abs(k) / scale))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.floats(0.5, 200), st.integers(0, 2**32))
def test_rounding_stays_next_to_the_value_and_below_the_norm(d: int, clip: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((3, d))
    rows *= clip / np.linalg.norm(rows, axis=1, keepdims=True)
    draws = [np.random.default_rng([seed, row]) for row in range(3)]
    whole = rounded(rows, clip=clip, beta=math.exp(-0.5), random=draws)
    assert (np.abs(whole - rows) < 1).all()
    assert (np.linalg.norm(whole, axis=1) <= rounded_norm(clip, d, math.exp(-0.5)) * (1 + 1e-9)).all()


def test_rounding_is_nearly_unbiased() -> None:
    row = np.linspace(-3, 3, 41)[None]
    draws = np.stack([
        rounded(row, clip=float(np.linalg.norm(row)), beta=0.6, random=[np.random.default_rng(i)])[0]
        for i in range(4000)
    ])  # fmt: skip
    assert np.abs(draws.mean(0) - row[0]).max() < 0.05


@pytest.mark.parametrize(("behind", "bits"), [("secure-aggregation", 12), ("bfv", 12), ("ckks", 10)])
def test_sums_are_exact_on_the_grid(context: Contexts, behind: str, bits: int) -> None:
    """What clients send are whole steps (and half a one where zero lies between two values), in float64."""
    d, clients = 50, (3, 1, 8)
    defense = DistributedDP(behind=behind, bits=bits, value_range=4.0, noise_multiplier=0.5)  # type: ignore[arg-type]
    told = context(d, clients)
    values = 0.1 * torch.randn(3, d, generator=generator("d"))
    sealed = defense.seal(Plain(values, torch.tensor([5.0, 7.0, 2.0])), told)
    lattice = defense.lattice
    steps = sealed.values / lattice.step - lattice.offset
    assert sealed.values.dtype == torch.float64
    assert float((steps - steps.round()).abs().max()) < 1e-6
    assert torch.equal(sealed.weights, torch.ones(3, dtype=sealed.weights.dtype))
    opened = defense.open(Plain(sealed.values.mean(0)[None], torch.tensor([3.0])), told)
    wanted = steps.round().sum(0) * lattice.step / 3
    assert float((opened.values[0] - wanted).abs().max()) < 1e-9


def test_grids_are_those_of_the_stages_behind() -> None:
    from fedsec.defenses.encryption.quantised import Grid
    from fedsec.defenses.secure_aggregation.fixed_point import FixedPoint

    fixed = FixedPoint(value_range=4.0, bits=12, max_weight=1, capacity=16, ring_bits=32)
    assert Lattice.of("secure-aggregation", value_range=4.0, bits=12).step == fixed.step
    assert Lattice.of("bfv", value_range=4.0, bits=12).step == Grid(4.0, 12).step
    assert Lattice.of("ckks", value_range=4.0, bits=12).step == 2.0**-12


def test_the_words_of_secure_aggregation_are_the_whole_steps() -> None:
    """No value is rounded once more: each lies on its word, so the sum of words is the sum of steps."""
    from fedsec.defenses.secure_aggregation.fixed_point import FixedPoint

    fixed = FixedPoint(value_range=4.0, bits=16, max_weight=1, capacity=16, ring_bits=32)
    lattice = Lattice.of("secure-aggregation", value_range=4.0, bits=16)
    whole = torch.arange(-(2**15), 2**15, dtype=torch.float64)
    values = ((whole + lattice.offset) * lattice.step)[None]
    words = fixed.encode(values, torch.ones(1), [generator("round")])
    assert (words[0, :-1].astype(np.int64) - 2**15 == whole.numpy().astype(np.int64)).all()


def test_shares_of_noise_add_up(context: Contexts) -> None:
    """Nine of ten clients are counted on: their noise has at least the claimed size."""
    d, n = 4000, 10
    told = context(d, tuple(range(n)), cohort=float(n))
    defense = DistributedDP(clip_norm=1.0, noise_multiplier=0.5)
    sealed = defense.seal(Plain(torch.zeros(n, d), torch.ones(n)), told)
    claims = defense.claims(_setting_like(told))
    nine = (sealed.values[:9] - defense.lattice.offset * defense.lattice.step).sum(0)
    ratio = float(nine.square().mean()) / float(claims["noise_std_sum"]) ** 2
    assert abs(ratio - 1) < 5 * math.sqrt(2 / d)
    assert float(claims["noise_multiplier"]) == pytest.approx(0.5, rel=1e-3)
    assert float(claims["noise_std_sum"]) >= 0.5 * float(claims["sensitivity"])
    correlation = torch.corrcoef(sealed.values)
    assert float((correlation - torch.eye(n)).abs().max()) < 6 / math.sqrt(d)


def _setting_like(told: RoundContext) -> Setting:
    return Setting(
        population=told.population, cohort=told.cohort, rounds=told.rounds, sampling="all", layout=told.layout,
        local_steps=1, batch_size=None, has_batch_norm=False, task="classification", bounds=None, stack=BEHIND,
    )  # fmt: skip


def test_alone_a_share_hides_little(context: Contexts) -> None:
    """Why single updates must not be seen: of ten clients' noise each has a tenth, and averages over rounds undo it."""
    d, rounds = 40, 200
    secret = torch.nn.functional.normalize(torch.ones(1, d))
    defense = DistributedDP(noise_multiplier=1.0)
    seen = torch.stack([
        defense.seal(Plain(secret, torch.ones(1)), context(d, (0,), cohort=10.0, round=r)).values[0]
        for r in range(rounds)
    ])  # fmt: skip
    assert float((seen.mean(0) - secret[0]).norm()) < 0.3


def test_too_few_clients_drop_the_round(context: Contexts) -> None:
    told = context(5, (), cohort=10.0)
    opened = DistributedDP().open(Plain(torch.ones(1, 5), torch.tensor([8.0])), told)
    assert not opened.values.any()
    assert told.report["dropped_round"] == 1.0


def test_another_grid_is_noticed(context: Contexts) -> None:
    told = context(5, (), cohort=3.0)
    with pytest.raises(ConfigurationError, match="max_weight: 1"):
        DistributedDP().open(Plain(torch.full((1, 5), 0.1234567, dtype=torch.float64), torch.tensor([3.0])), told)


def test_the_correction_vanishes_for_wide_noise_and_the_bound_is_gaussian() -> None:
    assert not_quite_gaussian(100, 50) < 1e-300
    assert not_quite_gaussian(1, 1) == 0.0
    assert not_quite_gaussian(1, 3) == pytest.approx(10 * (math.exp(-(math.pi**2)) + math.exp(-4 / 3 * math.pi**2)))
    common = {"terms": 10, "dimension": 100, "rounds": 20, "delta": 1e-4}
    wide = sum_epsilon(sensitivity=100.0, variance=100_000, **common)

    def of_order(alpha: float) -> float:
        mu2 = 20 * 100.0**2 / (10 * 100_000)
        return alpha * mu2 / 2 + math.log1p(-1 / alpha) - (math.log(1e-4) + math.log(alpha)) / (alpha - 1)

    assert wide == pytest.approx(min(of_order(1.01 + step / 200) for step in range(20_000)), rel=0.01)
    narrow = sum_epsilon(sensitivity=1.0, variance=1, **common)
    assert narrow > sum_epsilon(sensitivity=100.0, variance=10_000, **common)


def test_claims_and_budget(setting: Settings) -> None:
    where = {"population": 100, "cohort": 20.0, "rounds": 30, "sampling": "all", "stack": BEHIND}
    claims = DistributedDP(epsilon=4.0, value_range=16.0).claims(setting(**where))
    assert 3.9 < float(claims["epsilon"]) <= 4.0
    assert claims["holds_against"] == "everyone else, the server included"
    assert claims["noise_shares_counted_on"] == 18
    more = DistributedDP(noise_multiplier=1.0)
    assert float(more.claims(setting(**where))["epsilon"]) < float(
        more.claims(setting(**{**where, "rounds": 60}))["epsilon"]
    )


def test_refusals(setting: Settings) -> None:
    assert not DistributedDP().problems(setting(stack=BEHIND, cohort=10))
    assert "put secure-aggregation after" in DistributedDP().problems(setting(stack=("dp-distributed",)))[0][1]
    between = ("dp-distributed", "clip", "secure-aggregation")
    assert "clip changes the values" in DistributedDP().problems(setting(stack=between))[0][0]
    ((found, instead),) = DistributedDP(value_range=1.0, bits=12).problems(setting(stack=BEHIND, cohort=10))
    assert "beyond the range" in found
    assert "value_range: " in instead
    ((found, _),) = DistributedDP(bits=8, noise_multiplier=0.1).problems(
        setting(stack=BEHIND, cohort=10, layout=setting().layout.__class__((_slot(20_000),)))
    )
    assert "as long as" in found
    assert "steps of the grid" in DistributedDP(bits=24).problems(setting(stack=BEHIND, cohort=10))[0][0]


def _slot(d: int):
    from fedsec.models.flat import Slot

    return Slot("w", (d,), 0, d, True)
