"""Local hooks that only a share of the clients runs: who runs them, and that the others train as if there were none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import ZOO, build, examples

from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.population import standings
from fedsec.federation.training import LocalTraining
from fedsec.federation.watch import Watch, by_share

SIZES, SEEDS = (11, 3, 7, 8, 11), (3, 1, 4, 15, 9)
PLACES = (0.1, 0.9, 0.5, 0.3, 0.7)
LOCAL = LocalTraining(epochs=2, batch_size=4, learning_rate=0.05)


@dataclass(frozen=True)
class Doubled:
    """Takes twice the gradient, keeps a count, and reads each batch several times; picklable."""

    share: float = 1.0
    replays: int = 1
    label: str = "a"

    def local(self, step):
        return DoubledStep(step, self.label)


@dataclass(frozen=True)
class DoubledStep:
    step: object
    label: str

    def __call__(self, lanes, x, y):
        lanes.report(f"doubled.{self.label}", torch.ones(x.shape[0]))
        return tuple(2 * gradient for gradient in self.step(lanes, x, y))


def world(name):
    source, data = ZOO[name]
    pool = examples(data, sum(SIZES))
    shards = [Shard(pool, rows) for rows in torch.arange(sum(SIZES)).split(list(SIZES))]
    return build(source, data), pool, shards


def trained(model, pool, shards, hooks, engine, places=PLACES):
    with CohortTrainer(model, LOCAL, hooks=hooks, engine=engine, workers=2, pool=pool) as trainer:
        updates = trainer.train(model.vector(), shards, SEEDS, standings=places)
        return updates, trainer.reports


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 9))
def test_a_share_is_so_many_clients_and_a_smaller_one_is_among_them(clients, share, seed):
    places = standings(clients, seed=seed)
    assert abs(int((places < share).sum()) - share * clients) <= 0.5 + 1e-9
    assert set(np.flatnonzero(places < share / 2)) <= set(np.flatnonzero(places < share))
    assert np.array_equal(places, standings(clients, seed=seed))


def test_other_seeds_draw_other_clients():
    drawn = {tuple(np.flatnonzero(standings(20, seed=seed) < 0.3)) for seed in range(10)}
    assert len(drawn) > 5
    assert {len(clients) for clients in drawn} == {6}


@pytest.mark.parametrize(
    ("name", "engine"),
    [("mlp", "sequential"), ("convnet", "sequential"), ("mlp", "stacked"), ("convnet", "stacked"), ("mlp", "workers")],
)
def test_clients_outside_train_plainly_to_the_bit_and_those_within_as_if_all_did(name, engine):
    model, pool, shards = world(name)
    plain, _ = trained(model, pool, shards, (), engine)
    everyone, _ = trained(model, pool, shards, (Doubled(replays=2),), engine)
    mixed, reports = trained(model, pool, shards, (Doubled(share=0.6, replays=2),), engine)
    for client, place in enumerate(PLACES):
        wanted = everyone[client] if place < 0.6 else plain[client]
        if engine == "stacked" and name == "convnet":  # a convolution of fewer lanes may sum in another order
            torch.testing.assert_close(mixed[client], wanted, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(mixed[client], wanted)
        assert reports[client] == ({"doubled.a": 1.0} if place < 0.6 else {})
        assert not torch.equal(everyone[client], plain[client])


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_share_zero_is_plain_training_and_share_one_is_everybody(engine):
    model, pool, shards = world("mlp")
    plain, _ = trained(model, pool, shards, (), engine)
    everyone, _ = trained(model, pool, shards, (Doubled(),), engine, places=None)
    assert torch.equal(trained(model, pool, shards, (Doubled(share=0.0),), engine)[0], plain)
    assert torch.equal(trained(model, pool, shards, (Doubled(share=0.0),), engine, places=None)[0], plain)
    assert torch.equal(trained(model, pool, shards, (Doubled(share=1.0),), engine)[0], everyone)


def test_two_shares_make_three_kinds_of_clients_in_every_engine():
    model, pool, shards = world("mlp")
    hooks = (Doubled(share=0.4), Doubled(share=0.8, label="b"))
    kinds = [{}, {"doubled.b": 1.0}, {"doubled.a": 1.0, "doubled.b": 1.0}]
    wanted = [kinds[(place < 0.4) + (place < 0.8)] for place in PLACES]
    slow, reports = trained(model, pool, shards, hooks, "sequential")
    assert reports == wanted
    for engine in ("stacked", "workers"):
        fast, reports = trained(model, pool, shards, hooks, engine)
        assert reports == wanted
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)


def test_standings_must_match_the_clients():
    model, pool, shards = world("mlp")
    with pytest.raises(ValueError, match="5 shards and 2 standings"):
        trained(model, pool, shards, (), "sequential", places=(0.1, 0.2))


def test_what_was_made_of_those_within_is_told_apart_from_the_others():
    rows = [(number, client, client == 4, False) for number in range(2) for client in range(5)]
    scores = {(0, 0): 1.0, (1, 0): 0.0, (0, 2): 0.25}
    watch = Watch(rows).tensors([(0, 0), (1, 1), (1, 0), (0, 4)], scores, {}, {0: 1, 1: 0, 2: 0, 4: 1})
    assert watch["within"].tolist() == [1, 0, 0, -1, 1] * 2
    assert by_share(watch) == {
        "share.within": pytest.approx(1 / 3),
        "share.within.dropped": 1.0,
        "share.within.score": 0.5,
        "share.outside.dropped": 0.25,
        "share.outside.score": 0.25,
    }
    assert by_share(Watch(rows).tensors([], {}, {})) == {}
