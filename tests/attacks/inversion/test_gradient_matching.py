import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.inversion.dlg import DeepLeakage, ImprovedDeepLeakage
from fedsec.attacks.inversion.engine import solve
from fedsec.attacks.inversion.inverting_gradients import InvertingGradients
from fedsec.attacks.inversion.matching import (
    LaneGradients,
    cosine_distance,
    one_hot,
    scale_free_distance,
    squared_distance,
)
from fedsec.attacks.inversion.objective import Matching, Prior, evaluate
from fedsec.attacks.inversion.observed import observe
from fedsec.attacks.inversion.recipe import Recipe
from fedsec.attacks.inversion.regularisers import total_variation
from fedsec.attacks.inversion.victims import choose, layer_spans, most_exposed, surrogate_gradient
from fedsec.errors import NotKnownError
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View
from fedsec.randomness import generator


def clip(update):
    return update * (1e-3 / update.norm()).clamp_max(1)


def batch_norm_net():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Sigmoid(), nn.Flatten(), nn.Linear(108, 10))


@pytest.mark.parametrize("net", ["mlp", "sigmoid-net", "batch-norm"])
def test_lane_gradients_are_those_of_each_model_alone(networks, digits, net):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = (
            FlatModel.of(batch_norm_net(), task="classification", name="net")
            if net == "batch-norm"
            else networks[net]()
        )
    draw = generator(0, "lanes")
    states = model.vector() + 0.1 * torch.rand(3, model.layout.size, generator=draw)
    x, y = digits.x[:6].view(3, 2, 1, 8, 8), digits.y[:6].view(3, 2)
    found = LaneGradients(model, states)(x, one_hot(y, 10, x))
    for lane in range(3):
        module = model.instance(states[lane]).train()
        loss = model.loss(module(x[lane]), y[lane]).mean()
        alone = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
        assert torch.allclose(found[lane], alone, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_which_distances_see_the_scale(seed, factor):
    draw = generator(seed, "distance")
    g, t = torch.randn(2, 2, 12, generator=draw, dtype=torch.float64)
    assert torch.allclose(cosine_distance(factor * g, t), cosine_distance(g, factor * t))
    assert torch.allclose(scale_free_distance(factor * g, t), scale_free_distance(g, t))
    best = (g * t).sum(1, keepdim=True) / g.square().sum(1, keepdim=True)
    slow = squared_distance(best * g, t)
    ahead = best.squeeze(1) > 0
    assert torch.allclose(scale_free_distance(g, t)[ahead], slow[ahead])
    assert bool((scale_free_distance(g, t)[~ahead] >= 1).all())


def lanes_of(model, states, targets, labels, *, size, distance=squared_distance, tv=0.0):
    """The objective of some lanes of 8 x 8 images, one round each."""
    return Matching(
        model=model,
        states=states.unsqueeze(1),
        targets=targets,
        labels=labels,
        size=size,
        input_shape=(1, 8, 8),
        observed=observe(targets, targets, layer_spans(model)),
        distance=distance,
        prior=Prior(tv=torch.full((len(states),), tv), bounds=(0.0, 1.0)),
    )


@pytest.mark.parametrize("joint", [True, False], ids=["dlg", "idlg"])
@pytest.mark.parametrize("change", [lambda update: update, lambda update: update.clamp(-0.01, 0.01)])
def test_the_matching_of_some_lanes_is_that_of_each_alone(networks, digits, joint, change):
    model = networks["sigmoid-mlp"]()
    draw = generator(6, "matching")
    states = model.vector() + 0.1 * torch.rand(4, model.layout.size, generator=draw)
    targets = change(0.1 * torch.randn(4, model.layout.trainable, generator=draw))
    labels = one_hot(digits.y[:8].view(4, 2), 10, states)
    x = torch.randn(4, 2 * 64 + 20 * joint, generator=draw)

    def matching(rows):
        return lanes_of(model, states[rows], targets[rows], None if joint else labels[rows], size=2)

    rows = torch.tensor([3, 1])
    value, match, slope = evaluate(matching(slice(None)).of(rows), x[rows])
    assert torch.equal(value, match)
    for place, lane in enumerate(rows.tolist()):
        one = matching(slice(lane, lane + 1))
        alone_value, _, alone_slope = evaluate(one.of(torch.tensor([0])), x[lane : lane + 1])
        assert torch.allclose(value[place], alone_value[0], rtol=1e-5)
        assert torch.allclose(slope[place], alone_slope[0], rtol=1e-4, atol=1e-6)
        inputs, free = one.split(x[lane : lane + 1])
        soft = free.softmax(-1) if joint else labels[lane : lane + 1]
        found = one.observed(LaneGradients(model, states[lane : lane + 1])(inputs, soft))
        slow = squared_distance(found, one.observed(targets[lane : lane + 1]))
        assert torch.allclose(alone_value, slow)


def test_total_variation_against_a_loop():
    x = torch.rand(2, 3, 1, 4, 5, generator=generator(0))
    for lane in range(2):
        down = [abs(float(i[r + 1, c] - i[r, c])) for (i,) in x[lane] for r in range(3) for c in range(5)]
        across = [abs(float(i[r, c + 1] - i[r, c])) for (i,) in x[lane] for r in range(4) for c in range(4)]
        slow = sum(down) / len(down) + sum(across) / len(across)
        assert float(total_variation(x)[lane]) == pytest.approx(slow, rel=1e-5)


def test_lanes_do_not_mix(networks, digits):
    model = networks["mlp"]()
    states = model.vector().repeat(3, 1)
    targets = torch.randn(3, model.layout.trainable, generator=generator(1))
    labels, x = one_hot(digits.y[:3].view(3, 1), 10, states), torch.rand(3, 1, 1, 8, 8, generator=generator(2))
    recipe = Recipe(evaluations=10, restarts=1)

    def run(rows):
        matching = lanes_of(model, states[rows], targets[rows], labels[rows], size=1, distance=cosine_distance, tv=1e-3)
        return solve(matching, x[rows].flatten(1), recipe, bounds=(0.0, 1.0), generator=generator(0))

    assert torch.allclose(run(slice(None)).x[1:2], run(slice(1, 2)).x, atol=1e-3)


def event(round_index, sender, examples):
    return Seen(
        round=round_index,
        topic=Topic.UPLOAD,
        sender=sender,
        values=torch.zeros(1),
        weight=1.0,
        about=(("examples", examples),),
    )


def test_the_most_exposed_are_those_with_fewest_examples_each_once_first():
    events = [event(r, f"client:{c}", n) for r in range(2) for c, n in enumerate((5, 1, 9))]
    chosen = most_exposed(events, 4)
    assert [(e.round, e.sender) for e in chosen] == [
        (0, "client:1"),
        (0, "client:0"),
        (0, "client:2"),
        (1, "client:1"),
    ]


def test_the_model_of_the_round_or_the_newest_older_one(scene, networks):
    s = scene(InvertingGradients.threat, networks["mlp"](), clients=1)
    late = dataclasses.replace(s.view.of(Topic.UPLOAD)[0], round=2)
    broadcast = s.view.of(Topic.BROADCAST)[0]
    newer = [dataclasses.replace(broadcast, round=r, values=broadcast.values + r) for r in (1, 3)]
    (victim,) = choose(View("server", (*newer, late)), s.facts, targets=1)
    assert torch.equal(victim.model, newer[0].values)


def test_weight_decay_is_subtracted(scene, networks):
    s = scene(InvertingGradients.threat, networks["mlp"](), clients=1)
    (victim,) = choose(s.view, s.facts, targets=1)
    plain = surrogate_gradient(victim, s.facts.local)
    decayed = dataclasses.replace(victim, update=victim.update - 0.1 * 0.01 * victim.model)
    local = dataclasses.replace(s.facts.local, weight_decay=0.01)
    assert torch.allclose(surrogate_gradient(decayed, local), plain, atol=1e-5)


def test_the_rate_is_that_of_the_round(scene, networks):
    s = scene(InvertingGradients.threat, networks["mlp"](), clients=1)
    (victim,) = choose(s.view, s.facts, targets=1)
    local = dataclasses.replace(s.facts.local, schedule="cosine", rounds=4)
    late = dataclasses.replace(victim, round=3, update=victim.update * local.in_round(3).learning_rate / 0.1)
    assert torch.allclose(surrogate_gradient(late, local), surrogate_gradient(victim, s.facts.local), rtol=1e-5)


@pytest.mark.parametrize("change", [lambda update: update, clip], ids=["bare", "clipped"])
def test_inverting_gradients_identifies_digits(scene, networks, change):
    stack = () if change is not clip else ("clip(norm=0.001)",)
    s = scene(InvertingGradients.threat, networks["mlp"](), change=change, stack=stack)
    result = s.judge(InvertingGradients().run(s.view, s.facts, generator=generator(0)))
    assert result["identified"] >= 0.8
    assert result["label_accuracy"] == 1.0
    assert result["psnr"] > 30


def test_inverting_gradients_reads_batches_and_a_trained_model(scene, networks):
    s = scene(InvertingGradients.threat, networks["mlp"](), per_client=4, warm=100)
    evidence = InvertingGradients().run(s.view, s.facts, generator=generator(0))
    assert evidence.inputs.shape == (32, 1, 8, 8)
    assert s.judge(evidence)["identified"] >= 0.7


def test_several_local_steps_as_one_surrogate_gradient(scene, networks):
    local = LocalTraining(batch_size=None, epochs=5, learning_rate=0.1)
    s = scene(InvertingGradients.threat, networks["mlp"](), local=local)
    assert s.judge(InvertingGradients().run(s.view, s.facts, generator=generator(0)))["identified"] >= 0.8


def test_an_aggregate_gives_at_most_max_examples(scene, networks):
    s = scene(InvertingGradients.threat, networks["mlp"](), topic=Topic.AGGREGATE)
    evidence = InvertingGradients(max_examples=3, iterations=40).run(s.view, s.facts, generator=generator(0))
    assert evidence.sources == ((0, "server"),) * 3
    assert s.judge(evidence)["coverage"] <= 3 / 8


@pytest.mark.parametrize("attack", [DeepLeakage, ImprovedDeepLeakage, InvertingGradients])
def test_a_view_of_noise_brings_it_to_its_floor(scene, networks, noise, attack):
    s = scene(attack.threat, networks["mlp"](), clients=16, change=noise)
    short = {"iterations": 60} if attack is InvertingGradients else {"evaluations": 40, "restarts": 1}
    evidence = attack(targets=16, **short).run(s.view, s.facts, generator=generator(0))
    assert s.judge(evidence)["identified"] <= 0.25


@pytest.mark.parametrize("change", [lambda update: update, clip], ids=["bare", "clipped"])
@pytest.mark.parametrize("attack", [DeepLeakage, ImprovedDeepLeakage])
def test_deep_leakage_recovers_images_from_a_sigmoid_net(scene, networks, attack, change):
    stack = () if change is not clip else ("clip(norm=0.001)",)
    s = scene(attack.threat, networks["sigmoid-net"](), clients=6, change=change, stack=stack)
    evidence = attack(restarts=2).run(s.view, s.facts, generator=generator(0))
    judgement = s.judgement(evidence)
    mse = next(m for m in judgement.measurements if m.name == "mse").units
    assert int((mse < 1e-3).sum()) >= 5
    result = s.judge(evidence)
    assert result["identified"] >= 5 / 6
    if attack is ImprovedDeepLeakage:
        assert result["label_accuracy"] == 1.0


def test_deep_leakage_reads_batches(scene, networks):
    s = scene(ImprovedDeepLeakage.threat, networks["mlp"](), clients=3, per_client=2)
    evidence = ImprovedDeepLeakage(restarts=2).run(s.view, s.facts, generator=generator(0))
    assert evidence.inputs.shape == (6, 1, 8, 8)
    assert s.judge(evidence)["identified"] >= 0.8


def test_plain_l2_fails_on_a_clipped_update_where_scale_free_does_not(scene, networks):
    s = scene(ImprovedDeepLeakage.threat, networks["sigmoid-mlp"](), clients=4, change=clip, stack=("clip",))
    plain = ImprovedDeepLeakage(matching="l2", restarts=1).run(s.view, s.facts, generator=generator(0))
    free = ImprovedDeepLeakage(matching="auto", restarts=1).run(s.view, s.facts, generator=generator(0))
    assert s.judge(plain)["psnr"] < 20
    assert s.judge(free)["psnr"] > 30


def test_adam_runs_all_lanes_at_once(scene, networks):
    s = scene(ImprovedDeepLeakage.threat, networks["mlp"]())
    attack = ImprovedDeepLeakage(optimizer="adam", init="uniform", restarts=2)
    assert s.judge(attack.run(s.view, s.facts, generator=generator(0)))["identified"] >= 0.8


@pytest.mark.parametrize("attack", [DeepLeakage, ImprovedDeepLeakage, InvertingGradients])
def test_equal_generators_give_equal_evidence(scene, networks, attack):
    s = scene(attack.threat, networks["mlp"](), clients=2)
    short = {"iterations": 8} if attack is InvertingGradients else {"evaluations": 8, "restarts": 2}
    first, second = (attack(**short).run(s.view, s.facts, generator=generator(4)) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)


def test_regressions_are_for_dlg_only(scene, networks):
    s = scene(DeepLeakage.threat, networks["mlp"](), clients=1)
    model = dataclasses.replace(s.facts.model, task="regression")
    facts = dataclasses.replace(s.facts, model=model)
    for attack in (InvertingGradients(), ImprovedDeepLeakage()):
        with pytest.raises(NotApplicable, match="not classification"):
            attack.run(s.view, facts, generator=generator(0))


def test_tokens_are_not_applicable(scene, networks):
    s = scene(DeepLeakage.threat, networks["mlp"](), clients=1)
    facts = dataclasses.replace(s.facts, info=dataclasses.replace(s.facts.info, bounds=None))
    with pytest.raises(NotApplicable, match="tokens"):
        DeepLeakage().run(s.view, facts, generator=generator(0))


def test_undeclared_knowledge_is_refused(scene, networks):
    s = scene(DeepLeakage.threat, networks["mlp"](), clients=1)
    facts = dataclasses.replace(s.facts, knowledge=frozenset())
    with pytest.raises(NotKnownError):
        InvertingGradients().run(s.view, facts, generator=generator(0))


def test_only_the_first_rounds_are_attacked():
    assert InvertingGradients(first_rounds=3).rounds(10) == range(3)
    assert InvertingGradients(first_rounds=3).rounds(2) == range(2)
