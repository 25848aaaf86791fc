"""What a local step may ask of its lanes: layers by name, memory, reports, the round and replays of batches."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from zoo import ZOO, build, examples

from fedsec.errors import ConfigurationError
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.shards import local_order
from fedsec.federation.training import LocalTraining
from fedsec.models.dropout import CounterDropout
from fedsec.models.flat import FlatModel
from fedsec.models.single import SingleLane
from fedsec.models.stacked import DenseLanes, VmapLanes, stacked_lanes

SIZES, SEEDS = (11, 3, 7, 8), (3, 1, 4, 15)


def lanes_of(model, kind, count=2):
    """Lanes at different models: ``count`` of them, or one."""
    noise = torch.randn(count, model.layout.size, generator=torch.Generator().manual_seed(5))
    state = model.vector() + 0.1 * noise
    keys = torch.arange(count) + 17
    if kind == "single":
        lane = SingleLane(model, device="cpu", dtype=torch.float32)
        lane.load(state[0])
        lane.begin_step(keys[:1])
        return lane
    lanes = VmapLanes(model, state) if kind == "vmap" else stacked_lanes(model, state)
    assert kind == "vmap" or isinstance(lanes, DenseLanes)
    lanes.begin_step(keys)
    return lanes


def inputs(data, lanes, size=4):
    found = examples(data, size * len(lanes.keys))
    x = found.x.view(len(lanes.keys), size, *found.x.shape[1:])
    return x, found.y.view(len(lanes.keys), size, *found.y.shape[1:])


LAYERS = [
    ("mlp dropout", "single", "1"),
    ("mlp dropout", "vmap", "1"),
    ("mlp dropout", "dense", "1"),
    ("mlp dropout", "dense", "3"),
    ("mlp dropout", "dense", ""),
    ("convnet", "single", "0"),
    ("convnet", "vmap", "0"),
    ("transformer-encoder", "single", "tokens"),
]


def embedding_of(model):
    return next(name for name, part in model.module.named_modules() if isinstance(part, nn.Embedding))


@pytest.mark.parametrize(("name", "kind", "at"), LAYERS)
@pytest.mark.parametrize("train", [True, False])
def test_a_shift_is_added_to_the_output_of_a_layer(name, kind, at, train):
    source, data = ZOO[name]
    model = build(source, data)
    at = embedding_of(model) if at == "tokens" else at
    lanes = lanes_of(model, kind)
    x, _ = inputs(data, lanes)
    shift = torch.randn(lanes.zero_shift(x, at).shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        lanes.outputs(x, train=train, shift=torch.zeros_like(shift), at=at), lanes.outputs(x, train=train)
    )
    shifted = lanes.outputs(x, train=train, shift=shift, at=at)
    alone = lanes.output_of(x, at, train=train)
    for lane, key in enumerate(lanes.keys):
        module = model.instance(lanes.state[lane] if kind != "single" else vector_of(lanes)).train(train)
        for part in module.modules():
            if isinstance(part, CounterDropout):
                part.key = key
        seen = []
        part = module.get_submodule(at)
        part.register_forward_hook(lambda p, i, o, lane=lane, seen=seen: (seen.append(o), o + shift[lane])[1])
        torch.testing.assert_close(shifted[lane], module(x[lane]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone[lane], seen[0], rtol=1e-5, atol=1e-5)


def vector_of(lane):
    vector = torch.zeros(lane.model.layout.size)
    lane.subtract_into(vector, torch.zeros_like(vector))
    return vector


@pytest.mark.parametrize("kind", ["single", "vmap", "dense"])
def test_the_gradient_at_a_zero_shift_is_that_of_the_layers_output(kind):
    source, data = ZOO["mlp"]
    model = build(source, data)
    lanes = lanes_of(model, kind)
    x, y = inputs(data, lanes)
    shift = lanes.zero_shift(x, "1").requires_grad_()
    (p,) = torch.autograd.grad(lanes.losses(x, y, train=True, shift=shift, at="1").sum(), shift)
    leaf = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad(lanes.losses(leaf, y, train=True).sum(), leaf)
    (chained,) = torch.autograd.grad((p * lanes.output_of(leaf, "1", train=True)).sum(), leaf)
    torch.testing.assert_close(chained, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["single", "vmap", "dense"])
def test_layers_that_are_not_there_are_named(kind):
    source, data = ZOO["mlp"]
    lanes = lanes_of(build(source, data), kind)
    x, _ = inputs(data, lanes)
    with pytest.raises(ConfigurationError, match=r"0, 1, 2.*stem"):
        lanes.output_of(x, "stem", train=False)
    with pytest.raises(ConfigurationError, match="stem"):
        lanes.outputs(x, train=True, shift=torch.zeros_like(x), at="stem")


@pytest.mark.parametrize("kind", ["single", "vmap", "dense"])
def test_a_layer_that_runs_twice_is_refused(kind):
    relu = nn.ReLU()
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), relu, nn.Linear(4, 4), relu)
    lanes = lanes_of(FlatModel.of(module, task="classification", name="user"), kind)
    x = torch.rand(len(lanes.keys), 3, 4)
    with pytest.raises(ConfigurationError, match="runs this one 2 times"):
        lanes.outputs(x, train=True, shift=torch.zeros(len(lanes.keys), 3, 4), at="2")


@pytest.mark.parametrize(("name", "kind"), [("mlp dropout", "single"), ("mlp dropout", "dense"), ("convnet", "vmap")])
def test_all_passes_of_one_step_draw_one_dropout_mask(name, kind):
    source, data = ZOO[name]
    lanes = lanes_of(build(source, data), kind)
    x, _ = inputs(data, lanes)
    first, second = lanes.outputs(x, train=True), lanes.outputs(x, train=True)
    assert torch.equal(first, second)
    lanes.begin_step(lanes.keys + 1)
    assert not torch.equal(lanes.outputs(x, train=True), first)


def test_a_look_at_a_layer_moves_no_statistics():
    source, data = ZOO["convnet batch norm"]
    model = build(source, data)
    for kind in ("single", "vmap"):
        lanes = lanes_of(model, kind)
        x, _ = inputs(data, lanes)
        before = lanes.statistics.clone() if kind == "single" else lanes.state.clone()
        lanes.output_of(x, "1", train=True)
        if kind == "vmap":
            lanes.end_step()
        assert torch.equal(before, lanes.statistics if kind == "single" else lanes.state)


@dataclass(frozen=True)
class Accumulate:
    """Adds what it has seen of the inputs so far to them, by place in the batch, and reports when it was run."""

    replays: int = 1

    def local(self, step):
        def wrapped(lanes, x, y):
            seen = lanes.recall("seen", x) + x
            lanes.keep("seen", seen)
            lanes.report("note.round", torch.full((x.shape[0],), float(lanes.round)))
            done = [float(lanes.step + 1 == steps) for steps in lanes.steps]
            assert len(done) == x.shape[0]
            lanes.report("note.last", torch.tensor(done))
            lanes.report("note.sum", seen.flatten(1).sum(1))
            return step(lanes, seen, y)

        return wrapped


@pytest.mark.parametrize("name", ["mlp", "convnet"])
@pytest.mark.parametrize("replays", [1, 3])
def test_memory_reports_and_replays_are_those_of_a_plain_loop_in_every_engine(name, replays):
    source, data = ZOO[name]
    model = build(source, data)
    local = LocalTraining(epochs=2, batch_size=4, learning_rate=0.01)
    pool = examples(data, sum(SIZES))
    shards = [Shard(pool, rows) for rows in torch.arange(sum(SIZES)).split(list(SIZES))]
    start = model.vector()
    hooks = (Accumulate(replays),)
    for engine in ("sequential", "stacked", "workers"):
        with CohortTrainer(model, local, engine=engine, workers=2, hooks=hooks, pool=pool) as trainer:
            for round_index in (0, 3):
                updates = trainer.train(start, shards, SEEDS, round_index=round_index)
                for client, (shard, seed) in enumerate(zip(shards, SEEDS, strict=True)):
                    module = model.instance(start).train()
                    seen = torch.zeros(4, *pool.x.shape[1:])
                    order = local_order(shard, local, seed=seed)
                    total = len(order.bounds)
                    for index in range(total):
                        first, last = order.bounds[index // replays]
                        for part in module.modules():
                            if isinstance(part, CounterDropout):
                                part.key = order.keys[index]
                        x, y = pool.x[order.rows[first:last]], pool.y[order.rows[first:last]]
                        seen[: len(x)] += x
                        loss = model.loss(module(seen[: len(x)]), y).mean()
                        gradients = torch.autograd.grad(loss, list(module.parameters()))
                        with torch.no_grad():
                            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                                parameter -= local.learning_rate * gradient
                    vector = FlatModel(module, model.layout, model.loss, model.task, model.name).vector()
                    torch.testing.assert_close(updates[client], vector - start, rtol=1e-4, atol=1e-5)
                    report = trainer.reports[client]
                    assert (report["note.round"], report["note.last"]) == (round_index, 1.0)
                    assert report["note.sum"] == pytest.approx(seen[: len(x)].sum().item(), rel=1e-4)


def test_replays_keep_the_number_of_steps_and_read_fewer_batches():
    shard = Shard(examples(ZOO["mlp"][1], 10), torch.arange(10))
    local = LocalTraining(epochs=2, batch_size=4)
    plain, replayed = local_order(shard, local, seed=5), local_order(shard, local, seed=5, replays=4)
    assert len(plain.bounds) == len(replayed.bounds) == 6
    assert replayed.bounds == ((0, 4),) * 4 + ((4, 8),) * 2
    assert torch.equal(plain.keys, replayed.keys)
    assert torch.equal(replayed.rows, plain.rows[:10])
    limited = local_order(shard, local, seed=5, replays=4, max_steps=3)
    assert limited.bounds == ((0, 4),) * 3


def test_plain_training_reports_nothing():
    source, data = ZOO["mlp"]
    model = build(source, data)
    pool = examples(data, 8)
    with CohortTrainer(model, LocalTraining()) as trainer:
        trainer.train(model.vector(), [Shard.of(pool)], [1])
        assert trainer.reports == [{}]
