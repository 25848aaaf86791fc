"""Small models, lanes of them and batches, shared by the tests of adversarial training."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard
from fedsec.models.flat import FlatModel
from fedsec.models.single import SingleLane
from fedsec.models.stacked import VmapLanes, stacked_lanes


def flat(*parts, seed=0, task="classification"):
    """A model of freshly drawn layers."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        module = nn.Sequential(*[copy.deepcopy(part) for part in parts])
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return FlatModel.of(module, task=task, name="net")


def dense(*parts, **more):
    return flat(nn.Flatten(), *parts, **more)


def lanes_of(model, count=2, *, kind="stacked", dtype=torch.float32):
    """Lanes at different models; ``kind`` is ``stacked`` (what the engine takes), ``vmap`` or ``single``."""
    noise = torch.randn(count, model.layout.size, generator=torch.Generator().manual_seed(0))
    state = (model.vector() + 0.1 * noise).to(dtype)
    if kind == "single":
        lanes = SingleLane(model, device="cpu", dtype=dtype)
        lanes.load(state[0])
        count = 1
    else:
        lanes = VmapLanes(model, state) if kind == "vmap" else stacked_lanes(model, state)
    lanes.begin_step(torch.arange(count) + 17)
    lanes.steps = (1,) * count
    return lanes


def batch(lanes=2, size=5, shape=(6,), classes=2, seed=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(lanes, size, *shape, generator=generator, dtype=dtype)
    return x, torch.randint(classes, (lanes, size), generator=generator)


def trained(model, local, hooks, shards, seeds, *, engine="sequential", start=None, round_index=0, **more):
    """Updates ``(n, d)`` and reports of clients."""
    with CohortTrainer(model, local, engine=engine, hooks=tuple(hooks), **more) as trainer:
        updates = trainer.train(model.vector() if start is None else start, shards, seeds, round_index=round_index)
        return updates, trainer.reports


def shards_of(pool, sizes):
    """Runs of rows of one pool."""
    return [Shard(pool, rows) for rows in torch.arange(sum(sizes)).split(list(sizes))]


def close(found, wanted, atol=1e-6, rtol=1e-5):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=rtol)
