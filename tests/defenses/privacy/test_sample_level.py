"""DP-SGD at clients: what is drawn, clipped and added, and what is claimed for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2
from torch import nn

from fedsec.data.examples import Examples
from fedsec.defenses.privacy.ledger import Ledger, ledger_of, ledgers, worst
from fedsec.defenses.privacy.sample_level import PrivateStep, SampleLevelDP, step_noise
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard, local_order
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import gradient_step
from fedsec.models.per_example import per_example_gradients
from fedsec.models.single import SingleLane
from fedsec.protocol.stage import Setting
from fedsec.randomness import generator

Settings = Callable[..., Setting]


def model_of(*parts: nn.Module) -> FlatModel:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        for part in parts:
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return FlatModel.of(nn.Sequential(*parts), task="classification", name="net")


DENSE = model_of(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
CONV = model_of(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def pool(n: int) -> Examples:
    draw = generator("pool", n)
    return Examples(torch.rand(n, 1, 4, 4, generator=draw), torch.randint(3, (n,), generator=draw))


def lane(model: FlatModel, *, expected: float) -> SingleLane:
    one = SingleLane(model, device="cpu", dtype=torch.float32)
    one.load(model.vector())
    one.begin_step(torch.tensor([11]))
    one.expected, one.steps = (expected,), (1,)
    return one


def joined(gradients: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_examples_come_by_coins_of_their_own() -> None:
    """Counts of examples and of batches are binomial; steps are as many as before; batches differ between rounds."""
    n, size, epochs = 60, 12, 200
    shard, local = Shard.of(pool(n)), LocalTraining(epochs=epochs, batch_size=size)
    order = local_order(shard, local, seed=5, poisson=True)
    steps = epochs * n // size
    assert len(order.bounds) == len(order.keys) == steps
    assert order.expected == size
    sizes = torch.tensor([last - first for first, last in order.bounds])
    counts = torch.bincount(order.rows, minlength=n)
    rate = size / n
    assert bool((counts >= binom.ppf(1e-6, steps, rate)).all())
    assert bool((counts <= binom.ppf(1 - 1e-6, steps, rate)).all())
    spread = float(((sizes.double() - size) ** 2).sum()) / (n * rate * (1 - rate))
    low, high = chi2.ppf([1e-4, 1 - 1e-4], steps)
    assert low < spread < high
    together = sum(float({3, 4} <= set(order.rows[a:b].tolist())) for a, b in order.bounds)
    assert binom.ppf(1e-6, steps, rate**2) <= together <= binom.ppf(1 - 1e-6, steps, rate**2)
    other = local_order(shard, local, seed=6, poisson=True)
    assert not torch.equal(order.rows[:100], other.rows[:100])
    assert torch.equal(order.keys, local_order(shard, local, seed=5).keys)


@given(st.integers(0, 9), st.one_of(st.none(), st.integers(1, 12)), st.integers(1, 3))
def test_batches_without_sampling_are_the_shard(n: int, size: int | None, epochs: int) -> None:
    shard = Shard(pool(20), torch.arange(n) + 3)
    local = LocalTraining(epochs=epochs, batch_size=size)
    order = local_order(shard, local, seed=1, poisson=True)
    assert len(order.bounds) == local.steps(n)
    assert set(order.rows.tolist()) <= set(range(3, 3 + n))
    if size is None or size >= n:
        assert all(order.rows[a:b].tolist() == list(range(3, 3 + n)) for a, b in order.bounds)


def test_a_drawn_batch_is_not_replayed() -> None:
    with pytest.raises(ValueError, match="cannot be read in several"):
        local_order(Shard.of(pool(5)), LocalTraining(), seed=1, replays=2, poisson=True)


@pytest.mark.parametrize("model", [DENSE, CONV], ids=["dense", "conv"])
def test_the_step_is_clip_sum_noise_divide(model: FlatModel) -> None:
    """Algorithm 1, written out; the denominator is the expected batch size, not the one that came."""
    examples, one = pool(7), lane(model, expected=4.0)
    x, y = examples.x[None], examples.y[None]
    found = joined(PrivateStep(0.4, 1.5)(one, x, y))
    rows = torch.stack([joined(tuple(g[0, i] for g in per_example_gradients(one, x, y))) for i in range(7)])
    clipped = rows * (0.4 / rows.norm(dim=1)).clamp_max(1.0)[:, None]
    assert bool((rows.norm(dim=1) > 0.4).any())
    noise = step_noise(one.keys, model.layout.trainable, rows)[0]
    torch.testing.assert_close(found, (clipped.sum(0) + 1.5 * 0.4 * noise) / 4.0)
    torch.testing.assert_close(joined(gradient_step(one, x, y)), rows.mean(0), atol=1e-6, rtol=1e-4)


def test_one_example_moves_the_sum_by_at_most_the_bound() -> None:
    examples, one = pool(9), lane(CONV, expected=3.0)
    step = PrivateStep(0.1, 0.05)
    with_it = joined(step(one, examples.x[None], examples.y[None]))
    without = joined(step(one, examples.x[None, 1:], examples.y[None, 1:]))
    assert float((with_it - without).norm()) * 3.0 <= 0.1 * (1 + 1e-4)


@pytest.mark.parametrize("batch", [0, 5])
def test_noise_has_the_claimed_size_also_for_an_empty_batch(batch: int) -> None:
    wide = model_of(nn.Flatten(), nn.Linear(16, 1000), nn.ReLU(), nn.Linear(1000, 3))
    one, examples = lane(wide, expected=2.0), pool(5)
    x, y = examples.x[None, :batch], examples.y[None, :batch]
    noisy = joined(PrivateStep(0.5, 2.0)(one, x, y))
    without = joined(tuple(t / 2.0 for t in _clipped(one, x, y)))
    d = wide.layout.trainable
    low, high = chi2.ppf([1e-4, 1 - 1e-4], d)
    assert low < float(((noisy - without).double() ** 2).sum()) / (2.0 * 0.5 / 2.0) ** 2 < high


def _clipped(one: SingleLane, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    from fedsec.models.per_example import clipped_sums

    return clipped_sums(one, x, y, bound=0.5)[0]


@pytest.mark.parametrize("model", [DENSE, CONV], ids=["dense", "conv"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_engines_agree(model: FlatModel, optimizer: str) -> None:
    """Batches of all sizes, side by side or one client after another; a client without examples does nothing."""
    examples = pool(40)
    shards = [Shard(examples, rows) for rows in torch.arange(40).split([9, 17, 0, 2, 12])]
    local = LocalTraining(epochs=3, batch_size=4, optimizer=optimizer, learning_rate=0.2)
    updates = {}
    for engine in ("sequential", "stacked"):
        with CohortTrainer(model, local, engine=engine, hooks=(SampleLevelDP(noise_multiplier=0.3),)) as trainer:
            updates[engine] = trainer.train(model.vector(), shards, [3, 1, 4, 1, 5])
            reports = trainer.reports
        assert not updates[engine][2].any()
        assert 0 <= reports[0]["dp-sample.clipped_share"] <= 1
    torch.testing.assert_close(updates["sequential"], updates["stacked"], atol=2e-5, rtol=1e-4)
    assert bool(updates["stacked"][[0, 1, 3, 4]].any(dim=1).all())


def test_what_many_examples_share_is_not_hidden() -> None:
    """The unit is one example: what a hundred of them have in common is read through noise that hides each of them."""
    n = 200
    images = torch.rand(n, 1, 4, 4, generator=generator("bright"))
    shared = Examples(images, torch.zeros(n, dtype=torch.int64))
    one = lane(DENSE, expected=float(n))
    found = joined(PrivateStep(1.0, 1.0)(one, shared.x[None], shared.y[None]))
    true = joined(gradient_step(one, shared.x[None], shared.y[None]))
    alone = joined(PrivateStep(1.0, 1.0)(lane(DENSE, expected=1.0), shared.x[None, :1], shared.y[None, :1]))
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(found, true, dim=0)) > 0.95
    assert float(cosine(alone, true, dim=0)) < 0.5


def test_shuffled_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="no Poisson samples"):
        PrivateStep(1.0, 1.0)(lane(DENSE, expected=0.0), pool(2).x[None], pool(2).y[None])
    with pytest.raises(ValueError, match="cannot wrap"):
        SampleLevelDP().local(PrivateStep(1.0, 1.0))


MNIST: dict[str, Any] = {
    "population": 1, "cohort": 1, "rounds": 15, "sampling": "fixed", "batch_size": 240, "local_steps": 250,
    "holdings": (60_000,),
}  # fmt: skip


@pytest.mark.parametrize(
    ("noise", "rounds", "rdp", "prv"), [(1.3, 15, 0.922, 0.838), (0.7, 45, 6.09, 5.44), (1.1, 60, 2.50, 2.31)]
)
def test_known_claims(setting: Settings, noise: float, rounds: int, rdp: float, prv: float) -> None:
    """Opacus' MNIST example at its three levels of noise."""
    claims = SampleLevelDP(noise_multiplier=noise, delta=1e-5).claims(setting(**{**MNIST, "rounds": rounds}))
    assert claims["epsilon_rdp"] == pytest.approx(rdp, rel=0.01)
    assert claims["epsilon"] == pytest.approx(prv, rel=0.01)
    assert claims["steps"] == 250 * rounds
    assert claims["unit"] == "example"
    assert claims["holds_against"] == "everyone else, the server included"
    assert "poisson in each local step, rate 0.004" in str(claims["sampler"])


def test_delta_follows_the_largest_client_and_batches_without_sampling_claim_none(setting: Settings) -> None:
    few = setting(population=3, cohort=3, holdings=(40, 400, 100), batch_size=20, local_steps=20, rounds=5)
    assert SampleLevelDP().claims(few)["delta"] == pytest.approx(1 / 4000)
    assert "0.05 to 0.5" in str(SampleLevelDP().claims(few)["sampler"])
    whole = setting(population=3, cohort=3, holdings=(40, 400, 100), batch_size=None, local_steps=1, rounds=5)
    claims = SampleLevelDP().claims(whole)
    assert "none" in str(claims["sampler"])
    assert "exact Gaussian" in str(claims["accountant"])
    unknown = setting(population=3, cohort=3, holdings=(), batch_size=20, local_steps=1, rounds=5)
    assert SampleLevelDP(delta=1 / 4000).claims(unknown)["epsilon"] == claims["epsilon"]


def test_a_client_that_comes_less_often_spends_less(setting: Settings) -> None:
    some = setting(population=100, cohort=10, holdings=(100,) * 100, batch_size=10, local_steps=10, rounds=50)
    claims = SampleLevelDP().claims(some)
    assert claims["expected_participations"] == 5
    assert float(claims["epsilon_expected_participations"]) < 0.6 * float(claims["epsilon"])


@given(st.integers(1, 500), st.one_of(st.none(), st.integers(1, 64)), st.integers(1, 4), st.integers(1, 50))
def test_a_ledger_counts_every_step(n: int, size: int | None, epochs: int, rounds: int) -> None:
    local = LocalTraining(epochs=epochs, batch_size=size)
    steps = local.steps(n)
    ledger = ledger_of(examples=n, batch_size=size, epochs=epochs, most_steps=steps, rounds=rounds)
    assert ledger.steps == rounds * steps
    assert ledger.rate == min(1.0, (size or n) / n)
    assert ledgers((n, 0, n), batch_size=size, local_steps=steps, rounds=rounds) == ((ledger,), 2)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(20, 400), min_size=1, max_size=30))
def test_the_worst_ledger_is_the_maximum_or_above(sizes: list[int]) -> None:
    largest = max(sizes)
    found, _ = ledgers(tuple(sizes), batch_size=10, local_steps=math.ceil(largest / 10), rounds=3)
    accounted: dict[str, Any] = {"noise_multiplier": 1.0, "delta": 1e-4, "accountant": "rdp"}
    truth = max(ledger.epsilon(**accounted) for ledger in found)
    bound = worst(found, **accounted)
    assert truth <= bound
    if len(found) <= 12:
        assert bound == truth
    assert worst((), **accounted) == 0.0
    assert worst((Ledger(0.5, 3), Ledger(0.25, 3)), **accounted) == Ledger(0.5, 3).epsilon(**accounted)


def test_refusals(setting: Settings) -> None:
    assert not SampleLevelDP().problems(setting(holdings=(50, 60)))
    ((found, instead),) = SampleLevelDP().problems(setting(has_batch_norm=True))
    assert "batch norm mixes" in found
    assert "ModuleValidator.fix" in instead
    ((found, instead),) = SampleLevelDP(delta=0.1).problems(setting(holdings=(50, 60)))
    assert "not below 1/60" in found
    assert "delta: 0.001" in instead
    ((found, _),) = SampleLevelDP().problems(setting(stack=("pgd-at", "dp-sample")))
    assert "pgd-at changes the local step" in found
    ((found, _),) = SampleLevelDP().problems(setting(stack=("data-sanitising", "dp-sample")))
    assert "data-sanitising decides" in found
    assert not SampleLevelDP().problems(setting(stack=("dp-sample", "krum", "ckks")))
