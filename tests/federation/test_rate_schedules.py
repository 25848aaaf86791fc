"""The learning rate of each round: what the schedules say, and that training takes it from them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsec.audit.challenge import simulator
from fedsec.errors import ConfigurationError
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup
from fedsec.federation.training import SCHEDULES, LocalTraining
from fedsec.models.dense import MLP
from fedsec.models.flat import FlatModel
from fedsec.randomness import derive_seed


def rates(schedule: str, rounds: int, rate: float = 1.0) -> list[float]:
    local = LocalTraining(schedule=schedule, rounds=rounds, learning_rate=rate)
    return [local.in_round(number).learning_rate for number in range(rounds)]


def test_cosine_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    annealed = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    for expected in rates("cosine", 7, 0.3):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        annealed.step()


def test_one_cycle_rises_for_three_tenths_and_then_falls_along_a_cosine():
    assert rates("one-cycle", 10) == pytest.approx([0.25, 0.5, 0.75, *rates("cosine", 7)], rel=1e-12)
    assert rates("one-cycle", 1) == [0.5]


@given(st.sampled_from(SCHEDULES), st.integers(1, 60), st.floats(1e-6, 10))
def test_every_rate_is_positive_at_most_the_full_one_and_of_no_further_schedule(schedule, rounds, rate):
    found = rates(schedule, rounds, rate)
    assert all(0 < one <= rate for one in found)
    local = LocalTraining(schedule=schedule, rounds=rounds, learning_rate=rate).in_round(rounds + 3)
    assert local.schedule == "constant"
    assert math.isclose(local.learning_rate, found[-1])  # after the last round nothing rises again


def test_a_constant_rate_is_the_same_object_in_every_round():
    local = LocalTraining(rounds=5)
    assert local.in_round(3) is local


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_round_trains_at_its_own_rate(setup: FederationSetup, engine: str, optimizer: str):
    plain = LocalTraining(batch_size=10, optimizer=optimizer, learning_rate=0.5)
    scheduled = dataclasses.replace(plain, schedule="one-cycle", rounds=10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = FlatModel.of(MLP(hidden=(5,)).build(setup.info), task="classification", name="mlp")
    shard = Shard.of(setup.split.clients)
    for number, share in ((0, 0.25), (3, 1.0)):
        with (
            CohortTrainer(hidden, scheduled, engine=engine) as one,
            CohortTrainer(hidden, dataclasses.replace(plain, learning_rate=0.5 * share), engine=engine) as other,
        ):
            mine = one.train(hidden.vector(), [shard], [3], round_index=number)
            assert torch.equal(mine, other.train(hidden.vector(), [shard], [3]))


def test_worker_processes_keep_to_the_schedule(setup: FederationSetup):
    local = LocalTraining(batch_size=10, learning_rate=0.5, schedule="cosine", rounds=3)
    shards = [setup.shard(client) for client in range(3)]
    with (
        CohortTrainer(setup.model, local, engine="workers", workers=2, pool=setup.split.clients) as many,
        CohortTrainer(setup.model, local, engine=many.inner) as alone,
    ):
        updates = many.train(setup.initial, shards, [1, 2, 3], round_index=2)
        assert torch.equal(updates, alone.train(setup.initial, shards, [1, 2, 3], round_index=2))


def test_a_federation_of_one_client_is_central_training_by_the_schedule(make_setup):
    local = LocalTraining(batch_size=10, learning_rate=0.5, schedule="cosine", rounds=3)
    setup = make_setup(clients=1, local=local)
    model, shard = setup.initial.clone(), setup.shard(0)
    for number, rate in enumerate(rates("cosine", 3, 0.5)):
        with CohortTrainer(setup.model, LocalTraining(batch_size=10, learning_rate=rate)) as trainer:
            model = model + trainer.train(model, [shard], [derive_seed(setup.seed, "train", number, 0)])[0]
    torch.testing.assert_close(Federation(setup).run().released, model, rtol=0, atol=1e-6)


def test_an_unknown_schedule_is_refused(setup: FederationSetup):
    with pytest.raises(ConfigurationError, match="constant, cosine, one-cycle"):
        CohortTrainer(setup.model, LocalTraining(schedule="linear"))


def test_whoever_simulates_local_training_of_no_round_does_so_at_the_full_rate(make_setup):
    plain = LocalTraining(batch_size=10, learning_rate=0.5)
    drawn = []
    for local in (plain, dataclasses.replace(plain, schedule="one-cycle", rounds=3)):
        setup = make_setup(local=local)
        simulate = simulator(setup, (), seed=4)
        drawn.append(simulate(setup.initial, [setup.split.auxiliary], [0]))
    assert torch.equal(*drawn)
