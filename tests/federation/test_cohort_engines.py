"""Every engine gives what a plain loop over clients with torch.optim gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from zoo import ZOO, Perturb, build, examples

from fedsec.errors import ConfigurationError
from fedsec.federation.cohort import CohortTrainer, LocalHooks, Shard
from fedsec.federation.shards import local_order
from fedsec.federation.training import LocalTraining
from fedsec.models.dropout import CounterDropout
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import gradient_step
from fedsec.models.stacked import why_not_stackable
from fedsec.randomness import generator

SIZES = (11, 0, 7, 11, 5)
SEEDS = (3, 1, 4, 15, 9)


def truth(model, local, start, shards, seeds, limits=None):
    """An ordinary training loop on ordinary modules."""
    updates = []
    for client, (shard, seed) in enumerate(zip(shards, seeds, strict=True)):
        module = model.instance(start).train()
        parameters = list(module.parameters())
        make = {
            "sgd": lambda p: torch.optim.SGD(p, lr=local.learning_rate),
            "momentum": lambda p: torch.optim.SGD(p, lr=local.learning_rate, momentum=local.momentum),
            "adagrad": lambda p: torch.optim.Adagrad(p, lr=local.learning_rate),
            "rmsprop": lambda p: torch.optim.RMSprop(p, lr=local.learning_rate),
            "adam": lambda p: torch.optim.Adam(p, lr=local.learning_rate),
        }
        optimizer = make[local.optimizer](parameters)
        origin = [p.detach().clone() for p in parameters]
        order = local_order(shard, local, seed=seed, max_steps=None if limits is None else limits[client])
        for (first, last), key in zip(order.bounds, order.keys, strict=True):
            for part in module.modules():
                if isinstance(part, CounterDropout):
                    part.key = key
            data = shard.pool.take(order.rows[first:last])
            x = data.x.to(start.dtype) if data.x.is_floating_point() else data.x
            y = data.y.to(start.dtype) if data.y.is_floating_point() else data.y
            optimizer.zero_grad()
            model.loss(module(x), y).mean().backward()
            with torch.no_grad():
                for p, o in zip(parameters, origin, strict=True):
                    p.grad += local.weight_decay * p + local.proximal * (p - o)
            optimizer.step()
        vector = FlatModel(module, model.layout, model.loss, model.task, model.name).vector()
        updates.append(vector - start)
    return torch.stack(updates)


def shards_of(data, sizes=SIZES, seed=0):
    pool = examples(data, sum(sizes), seed)
    order = torch.randperm(sum(sizes), generator=generator("partition"))
    return pool, [Shard(pool, rows) for rows in order.split(list(sizes))]


def trained(model, local, start, shards, seeds, engine, **more):
    with CohortTrainer(model, local, engine=engine, **more) as trainer:
        return trainer.train(start, shards, seeds)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_every_model_trains_as_a_plain_loop_would(name, engine):
    source, data = ZOO[name]
    model = build(source, data)
    local = LocalTraining(epochs=2, batch_size=4, learning_rate=0.05)
    sizes = tuple(n - n % 4 + 2 * (n % 4 > 0) for n in SIZES)  # no batch of one: batch norm refuses it
    _, shards = shards_of(data, sizes)
    start = model.vector()
    updates = trained(model, local, start, shards, SEEDS, engine)
    close(updates, truth(model, local, start, shards, SEEDS))
    assert updates[1].abs().max() == 0
    assert updates[0].abs().max() > 1e-3


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
@pytest.mark.parametrize("name", ["mlp dropout", "convnet"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "rmsprop", "adam"])
def test_every_optimizer_and_penalty(engine, name, optimizer):
    source, data = ZOO[name]
    model = build(source, data)
    local = LocalTraining(
        epochs=2, batch_size=4, optimizer=optimizer, learning_rate=0.01, weight_decay=0.1, proximal=0.5
    )
    _, shards = shards_of(data)
    start = model.vector().double()
    updates = trained(model, local, start, shards, SEEDS, engine)
    assert updates.dtype == torch.float64
    torch.testing.assert_close(updates, truth(model, local, start, shards, SEEDS), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["mlp", "resnet batch norm"])
def test_hooks_give_the_same_in_every_engine_and_move_statistics_once_per_step(name):
    source, data = ZOO[name]
    model = build(source, data)
    local = LocalTraining(batch_size=4, learning_rate=0.1)
    pool, shards = shards_of(data, (12, 6, 8))
    start = model.vector()
    hooks = (Perturb(0.1),)
    results = {
        engine: trained(model, local, start, shards, SEEDS[:3], engine, hooks=hooks)
        for engine in ("sequential", "stacked")
    }
    with CohortTrainer(model, local, engine="workers", workers=2, hooks=hooks, pool=pool) as trainer:
        results["workers"] = trainer.train(start, shards, SEEDS[:3])
    close(results["stacked"], results["sequential"])
    close(results["workers"], results["sequential"])
    plain = trained(model, local, start, shards, SEEDS[:3], "sequential")
    assert (plain - results["sequential"]).abs().max() > 1e-3


def test_statistics_move_once_however_often_a_hook_passes():
    source, data = ZOO["convnet batch norm"]
    model = build(source, data)

    @dataclass(frozen=True)
    class Twice:
        def local(self, step):
            def wrapped(lanes, x, y):
                lanes.outputs(x, train=False)
                gradients = step(lanes, x, y)
                lanes.outputs(x, train=True)
                lanes.outputs(x, train=False)
                return gradients

            return wrapped

    _, shards = shards_of(data, (8, 6))
    for engine in ("sequential", "stacked"):
        local = LocalTraining(batch_size=4)
        once = trained(model, local, model.vector(), shards, (1, 2), engine)
        twice = trained(model, local, model.vector(), shards, (1, 2), engine, hooks=(Twice(),))
        torch.testing.assert_close(once, twice)


def test_first_hook_of_a_stack_is_outermost():
    seen = []

    class Note:
        def __init__(self, name):
            self.name = name

        def local(self, step):
            def wrapped(lanes, x, y):
                seen.append(self.name)
                return step(lanes, x, y)

            return wrapped

    source, data = ZOO["linear"]
    model = build(source, data)
    _, shards = shards_of(data, (3,))
    trained(model, LocalTraining(), model.vector(), shards, (1,), "sequential", hooks=(Note("a"), Note("b")))
    assert seen == ["a", "b"]
    assert LocalHooks(()).step() is gradient_step


def test_stragglers_stop_early():
    source, data = ZOO["mlp"]
    model = build(source, data)
    local = LocalTraining(epochs=3, batch_size=4)
    _, shards = shards_of(data)
    limits = (2, 5, None, 0, 4)
    for engine in ("sequential", "stacked"):
        with CohortTrainer(model, local, engine=engine) as trainer:
            updates = trainer.train(model.vector(), shards, SEEDS, max_steps=limits)
        close(updates, truth(model, local, model.vector(), shards, SEEDS, limits))
        assert updates[3].abs().max() == 0


def test_an_update_depends_on_the_seed_and_not_on_the_company():
    source, data = ZOO["mlp dropout"]
    model = build(source, data)
    local = LocalTraining(epochs=2, batch_size=4)
    _, shards = shards_of(data)
    whole = trained(model, local, model.vector(), shards, SEEDS, "stacked")
    alone = trained(model, local, model.vector(), shards[3:4], SEEDS[3:4], "stacked")
    other = trained(model, local, model.vector(), shards[3:4], (77,), "stacked")
    close(alone[0], whole[3])
    assert (other[0] - whole[3]).abs().max() > 1e-4


def test_full_batch_and_regression_gradient_is_one_step():
    source, data = ZOO["linear regression"]
    model = build(source, data)
    local = LocalTraining(batch_size=None, learning_rate=1.0)
    _, shards = shards_of(data, (5, 9))
    start = torch.zeros(model.layout.size)
    updates = trained(model, local, start, shards, (1, 2), "auto")
    for update, shard in zip(updates, shards, strict=True):
        mine = shard.examples()
        close(update, torch.cat([(mine.y[:, None] * mine.x).mean(0), mine.y.mean().reshape(1)]))


def test_auto_says_what_it_chose():
    mlp, cnn = build(*ZOO["mlp"]), build(*ZOO["cnn"])
    for model, workers, engine in ((mlp, 1, "stacked"), (cnn, 1, "sequential"), (mlp, 2, "workers")):
        with CohortTrainer(model, LocalTraining(), workers=workers) as trainer:
            assert trainer.engine == engine
    with CohortTrainer(mlp, LocalTraining(), device="cuda") as trainer:
        assert trainer.engine == "stacked"


def test_what_cannot_work_is_refused():
    lstm = FlatModel.of(nn.LSTM(3, 4), task="regression", name="user")
    assert "LSTM" in why_not_stackable(lstm)
    with pytest.raises(ConfigurationError, match="LSTM"):
        CohortTrainer(lstm, LocalTraining(), engine="stacked")
    with pytest.raises(ConfigurationError, match=r"(?s)engine.*optimizer"):
        CohortTrainer(build(*ZOO["mlp"]), LocalTraining(optimizer="lion"), engine="fast")
    with CohortTrainer(build(*ZOO["mlp"]), LocalTraining()) as trainer, pytest.raises(ValueError, match="do not match"):
        trainer.train(torch.zeros(1), [], [1])


def test_a_batch_of_one_under_batch_norm_is_explained():
    _, data = ZOO["resnet batch norm"]
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 3))
    model = FlatModel.of(module, task="classification", name="user")
    _, shards = shards_of(data, (5,))
    for engine in ("sequential", "stacked"):
        with pytest.raises(ConfigurationError, match="clients with 5 examples"):
            trained(model, LocalTraining(batch_size=4), model.vector(), shards, (1,), engine)


def test_order_covers_each_epoch_once():
    shard = Shard(examples(ZOO["mlp"][1], 10), torch.arange(10).flip(0))
    local = LocalTraining(epochs=3, batch_size=4)
    order = local_order(shard, local, seed=5)
    assert [b - a for a, b in order.bounds] == [4, 4, 2] * 3
    epochs = order.rows.view(3, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert order.keys.unique().numel() == math.ceil(10 / 4) * 3


def test_user_modules_with_fused_lstm_and_tied_weights_train_sequentially():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(5, 5, batch_first=True)
            self.embedding = nn.Embedding(5, 5)
            self.head = nn.Linear(5, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.lstm(self.embedding(tokens))[0])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FlatModel.of(Tagger(), task="next-token", name="user")
    draw = generator("tags")
    pool = type(examples(ZOO["mlp"][1], 1))(
        torch.randint(0, 5, (9, 4), generator=draw), torch.randint(0, 5, (9, 4), generator=draw)
    )
    shards = [Shard(pool, torch.arange(5)), Shard(pool, torch.arange(5, 9))]
    local = LocalTraining(epochs=2, batch_size=2)
    close(
        trained(model, local, model.vector(), shards, (1, 2), "auto"),
        truth(model, local, model.vector(), shards, (1, 2)),
    )
