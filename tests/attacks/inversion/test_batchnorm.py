"""Batch norm: three threat models, told apart by where the objective is zero."""

import dataclasses

import pytest
import torch
from torch import nn

from fedsec.attacks.inversion.batchnorm import batch_statistics, broadcast_statistics, layers, moments
from fedsec.attacks.inversion.gradinversion import GradInversion
from fedsec.attacks.inversion.matching import LaneGradients, one_hot
from fedsec.attacks.inversion.objective import evaluate
from fedsec.attacks.inversion.victims import choose
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.randomness import generator

LOCAL = LocalTraining(batch_size=None, learning_rate=0.1)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.Sigmoid(),
            nn.Conv2d(4, 6, 2),
            nn.BatchNorm2d(6, momentum=0.3),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(24, 10),
        )
        for layer in (module[1], module[4]):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.01, 0.2)
        return FlatModel.of(module, task="classification", name="net")


def scene_of(scene, model, *, local=LOCAL, dtype=torch.float64, clients=2, per_client=3, attack):
    """Clients that train in train mode, as the federation's own trainer does; buffers travel."""
    s = scene(attack.threat, model, clients=clients, per_client=per_client)
    state = s.facts.initial.to(dtype)
    shards = [Shard.of(s.truth.behind[0, f"client:{c}"]) for c in range(clients)]
    updates = CohortTrainer(model, local, engine="sequential").train(state, shards, list(range(clients)))
    events = tuple(
        dataclasses.replace(e, values=state if e.topic == Topic.BROADCAST else updates[int(e.sender[-1])])
        for e in s.view.events
    )
    return dataclasses.replace(
        s, view=View("server", events), facts=dataclasses.replace(s.facts, initial=state, _local=local)
    )


def objective_at_truth(s, mode):
    attack = GradInversion(batch_norm=mode, restarts=1, tv=0.0, l2=0.0, statistics=1.0, labels="gradient")
    victims = choose(s.view, s.facts, targets=8)
    matching, _, _, _ = attack.prepare(victims, victims[0].examples, s.facts, generator=generator(0))
    held = [s.truth.behind[victim.source] for victim in victims]
    x = torch.stack([h.x for h in held]).to(victims[0].model)
    y = one_hot(torch.stack([h.y for h in held]), 10, x)
    told = dataclasses.replace(matching, labels=y)
    value, match, _ = evaluate(told.of(torch.arange(len(victims))), x.flatten(1))
    return value, match


def test_at_the_truth_the_objective_is_zero_in_the_clients_own_mode_only(scene, model):
    s = scene_of(scene, model, attack=GradInversion())
    value, match = objective_at_truth(s, "private")
    assert bool((value < 1e-10).all())
    value, match = objective_at_truth(s, "shared")
    assert bool((match < 1e-10).all())
    assert bool((value < 1e-10).all())
    value, match = objective_at_truth(s, "public")
    assert bool((match > 1e-3).all())
    assert bool((value > match).all())


def test_a_client_in_eval_mode_is_matched_by_public_statistics(scene, model, digits):
    state = model.vector().double().unsqueeze(0)
    x, y = digits.x[:3].double().unsqueeze(0), digits.y[:3].unsqueeze(0)
    module = model.instance(state[0]).eval()
    loss = model.loss(module(x[0]), y[0]).mean()
    alone = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
    found = LaneGradients(model, state, batch_norm="public")(x, one_hot(y, 10, x))
    assert torch.allclose(found[0], alone)
    assert not torch.allclose(LaneGradients(model, state)(x, one_hot(y, 10, x))[0], alone)


def test_the_updates_buffers_give_the_batchs_statistics_away(scene, model):
    s = scene_of(scene, model, attack=GradInversion())
    victims = choose(s.view, s.facts, targets=8)
    states, moved = (torch.stack([getattr(v, name) for v in victims]) for name in ("model", "buffers"))
    found = batch_statistics(model, states, moved)
    for lane, victim in enumerate(victims):
        module, read = model.instance(states[lane]).train(), []
        for _, layer in layers(module):
            layer.register_forward_pre_hook(lambda _, args, read=read: read.append(moments(args[0])))
        module(s.truth.behind[victim.source].x.double())
        for (mean, var), (true_mean, true_var) in zip(found, read, strict=True):
            assert torch.allclose(mean[lane], true_mean)
            assert torch.allclose(var[lane], true_var)


def test_several_steps_mix_the_statistics(scene, model):
    local = dataclasses.replace(LOCAL, epochs=2)
    attack = GradInversion(batch_norm="shared", iterations=8)
    s = scene_of(scene, model, local=local, attack=attack)
    with pytest.raises(NotApplicable, match="statistics"):
        attack.run(s.view, s.facts, generator=generator(0))


@pytest.mark.parametrize("mode", ["private", "shared", "public"])
def test_attack_iterations_move_no_statistics(scene, model, mode):
    attack = GradInversion(batch_norm=mode, iterations=10, restarts=2)
    s = scene_of(scene, model, attack=attack, dtype=torch.float32)
    template, state = model.vector(), s.facts.initial.clone()
    before = broadcast_statistics(model, state.unsqueeze(0))
    counters = [b.clone() for b in model.module.buffers() if not b.is_floating_point()]
    first = attack.run(s.view, s.facts, generator=generator(1))
    assert torch.equal(model.vector(), template)
    assert torch.equal(s.facts.initial, state)
    after = broadcast_statistics(model, s.facts.initial.unsqueeze(0))
    assert all(torch.equal(a, b) for old, new in zip(before, after, strict=True) for a, b in zip(old, new, strict=True))
    now = [b for b in model.module.buffers() if not b.is_floating_point()]
    assert all(torch.equal(a, b) for a, b in zip(counters, now, strict=True))
    assert torch.equal(first.inputs, attack.run(s.view, s.facts, generator=generator(1)).inputs)


def test_shared_statistics_help(scene, model):
    """On average over a few batches, knowing the batch's statistics brings the reconstructions nearer."""
    error = {}
    for mode, weight in (("shared", 0.05), ("private", 0.0)):
        attack = GradInversion(batch_norm=mode, statistics=weight, restarts=2, iterations=150, max_examples=3)
        s = scene_of(scene, model, attack=attack, dtype=torch.float32, clients=4)
        judged = s.judgement(attack.run(s.view, s.facts, generator=generator(0)))
        error[mode] = float(next(m for m in judged.measurements if m.name == "mse").units.mean())
    assert error["shared"] < error["private"]


def test_moments_are_those_of_the_running_statistics():
    x = torch.rand(4, 3, 5, 5, generator=generator(2))
    layer = nn.BatchNorm2d(3, momentum=1.0).train()
    layer(x)
    mean, var = moments(x)
    assert torch.allclose(mean, layer.running_mean, atol=1e-6)
    assert torch.allclose(var, layer.running_var, atol=1e-6)
