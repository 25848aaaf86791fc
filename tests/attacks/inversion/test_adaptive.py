"""Each variant that knows the stack is at least as strong on its defense as the one that does not.

An attack reads the public stack and the update; told that the stack is empty, it is the naive variant of itself.
"""

import dataclasses

import pytest
import torch

from fedsec.attacks.inversion.dlg import ImprovedDeepLeakage
from fedsec.attacks.inversion.gradient_matching import public_noise
from fedsec.attacks.inversion.gradinversion import GradInversion
from fedsec.attacks.inversion.inverting_gradients import InvertingGradients
from fedsec.attacks.inversion.objective import evaluate
from fedsec.attacks.inversion.observed import (
    noise_ratio,
    not_sent,
    observe,
    only_signs,
    sign_agreement,
)
from fedsec.attacks.inversion.victims import choose
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.randomness import generator

LAYERS = (slice(0, 300), slice(300, 400))


def top(share):
    """The largest coordinates, as the defense ``top-k`` sends them."""

    def change(update):
        kept = update.abs().topk(max(1, int(share * len(update)))).indices
        return torch.zeros_like(update).scatter(0, kept, update[kept])

    return change


def signs(update):
    """Scaled signs, as the defense ``sign`` sends them: zero counts as plus."""
    return torch.where(update >= 0, update.abs().mean(), -update.abs().mean())


def noisy(multiplier, seed=3):
    draw = generator(seed, "noise")

    def change(update):
        update = update * (1 / update.norm()).clamp_max(1)
        return update + multiplier * torch.randn(update.shape, generator=draw)

    return change


def judged(s, attack):
    judgement = s.judgement(attack.run(s.view, s.facts, generator=generator(0)))
    units = {m.name: m.units for m in judgement.measurements}
    return float(units["identified"].mean()), float(units["mse"].mean())


def both(scene, model, attack, change, stack, *, clients=8):
    attack = dataclasses.replace(attack, targets=clients)
    naive = scene(attack.threat, model, change=change, clients=clients)
    aware = dataclasses.replace(naive, facts=dataclasses.replace(naive.facts, stack=stack))
    return judged(naive, attack), judged(aware, attack)


FAST = [InvertingGradients(iterations=100), ImprovedDeepLeakage(restarts=1, evaluations=80)]


@pytest.mark.parametrize("net", ["mlp", "sigmoid-net"])
@pytest.mark.parametrize("attack", FAST, ids=lambda attack: attack.name)
def test_top_k_is_matched_on_what_was_sent(scene, networks, attack, net):
    naive, aware = both(scene, networks[net](), attack, top(0.02), ("top-k(share=0.02, error_feedback=False)",))
    assert aware[0] >= naive[0] + 0.25
    assert aware[0] >= 0.75


@pytest.mark.parametrize("net", ["mlp", "sigmoid-net"])
@pytest.mark.parametrize("attack", FAST, ids=lambda attack: attack.name)
def test_signs_are_matched_as_signs(scene, networks, attack, net):
    naive, aware = both(scene, networks[net](), attack, signs, ("sign(error_feedback=False)",), clients=16)
    assert aware[0] >= naive[0]
    # Behind a ReLU layer on non-negative pixels signs say little more than which pixels are not zero.
    if net == "sigmoid-net":
        assert aware[0] >= 0.75
    if net == "sigmoid-net" or attack.name == "inverting-gradients":
        assert aware[1] < 0.75 * naive[1]


@pytest.mark.parametrize(("net", "multiplier"), [("mlp", 0.01), ("sigmoid-net", 0.03)])
def test_public_noise_is_met_with_a_stronger_prior(scene, networks, net, multiplier):
    attack = InvertingGradients(iterations=100)
    stack = (f"dp-local(clip_norm=1.0, noise_multiplier={multiplier}, delta=None)",)
    naive, aware = both(scene, networks[net](), attack, noisy(multiplier), stack)
    assert aware[1] < naive[1]


def in_rounds(s, multiplier, rounds):
    """The same batches in several rounds of a moving model, each with noise of its own."""
    model, state = s.facts.model, s.facts.initial
    draw, change, events = generator(9, "rounds"), noisy(multiplier), []
    for number in range(rounds):
        moved = state + 0.02 * torch.randn(state.shape, generator=draw)
        events.append(dataclasses.replace(s.view.of(Topic.BROADCAST)[0], round=number, values=moved))
        for event in s.view.of(Topic.UPLOAD):
            held, module = s.truth.behind[0, event.sender], model.instance(moved)
            loss = model.loss(module(held.x), held.y).mean()
            slopes = torch.autograd.grad(loss, list(module.parameters()))
            update = change(-0.1 * torch.cat([slope.reshape(-1) for slope in slopes]))
            events.append(dataclasses.replace(event, round=number, values=update))
    return dataclasses.replace(s, view=View("server", tuple(events)))


def test_several_rounds_of_one_client_average_its_noise_out(scene, networks):
    attack = InvertingGradients(iterations=100)
    s = scene(
        attack.threat, networks["sigmoid-net"](), clients=6, stack=("dp-local(clip_norm=1, noise_multiplier=0.02)",)
    )
    s = in_rounds(s, 0.02, 4)
    first = dataclasses.replace(s, view=View("server", tuple(e for e in s.view.events if e.round == 0)))
    one, four = judged(first, attack), judged(s, dataclasses.replace(attack, average_rounds=4))
    assert four[0] >= one[0]
    assert four[1] < 0.6 * one[1]


def test_rounds_are_matched_exactly_and_asked_for_in_full(scene, networks):
    attack = InvertingGradients(average_rounds=3, first_rounds=1)
    assert attack.rounds(10) == range(3)
    s = in_rounds(scene(attack.threat, networks["mlp"](), clients=2), 0.0, 3)
    evidence = dataclasses.replace(attack, iterations=8).run(s.view, s.facts, generator=generator(0))
    assert evidence.sources == ((0, "client:0"), (0, "client:1"))
    with pytest.raises(NotApplicable, match="4 rounds"):
        InvertingGradients(average_rounds=4).run(s.view, s.facts, generator=generator(0))
    s = scene(attack.threat, networks["mlp"](), clients=2, topic=Topic.AGGREGATE)
    other = dataclasses.replace(s.facts, population=100)
    with pytest.raises(NotApplicable, match="another cohort"):
        attack.run(s.view, other, generator=generator(0))


@pytest.mark.parametrize("change", [top(0.05), signs], ids=["top-k", "sign"])
@pytest.mark.parametrize("net", ["mlp", "sigmoid-net"])
def test_the_aware_objective_is_zero_at_the_truth_and_the_naive_one_is_not(scene, networks, change, net):
    attack = InvertingGradients(tv=0.0)
    found = {}
    for stack in ((), ("a stack",)):
        s = scene(attack.threat, networks[net](), change=change, stack=stack)
        victims = choose(s.view, s.facts, targets=8)
        matching, _, recipe, _ = attack.prepare(victims, 1, s.facts, generator=generator(0))
        truth = torch.stack([s.truth.behind[v.source].x for v in victims]).flatten(1)
        lanes = torch.arange(len(victims)) * recipe.restarts
        found[stack], _, _ = evaluate(matching.of(lanes), truth)
    assert bool((found["a stack",] < 1e-5).all())
    assert bool((found[()] > 1e-2).all())


def test_a_dense_update_was_sent_in_full_and_a_sparse_one_was_not():
    dense = torch.randn(3, 400, generator=generator(0))
    dense[:, 50:120] = 0  # dead units
    assert not bool(not_sent(dense, LAYERS).any())
    sparse = torch.stack([top(0.1)(row) for row in dense])
    least = not_sent(sparse, LAYERS)
    assert torch.equal(least > 0, sparse == 0)
    assert torch.allclose(least[0].max(), sparse[0][sparse[0] != 0].abs().min())
    assert bool(((dense.abs() <= least) | (sparse != 0)).all())
    by_layer = torch.stack([torch.cat([top(0.1)(row[span]) for span in LAYERS]) for row in dense])
    assert torch.equal(not_sent(by_layer, LAYERS) > 0, by_layer == 0)


def test_sign_vectors_are_recognised_whole_and_by_layer():
    dense = torch.randn(2, 400, generator=generator(1))
    assert only_signs(dense.sign(), LAYERS).tolist() == [True, True]
    assert only_signs(torch.cat([dense[:, :300].sign(), 0.1 * dense[:, 300:].sign()], 1), LAYERS).all()
    assert not bool(only_signs(dense, LAYERS).any())
    assert not bool(only_signs(dense.clamp(-0.1, 0.1), LAYERS).any())
    assert not bool(only_signs(torch.zeros(2, 400), LAYERS).any())


def test_without_a_stack_nothing_is_taken_for_compression():
    dense = torch.randn(2, 400, generator=generator(1))
    for update in (dense.sign(), torch.stack([top(0.1)(row) for row in dense])):
        bare, known = observe(update, update, LAYERS), observe(update, update, LAYERS, stack=("x",))
        assert bare.least is None
        assert bare.signs is None
        assert bool(known.signs.all()) == bool(only_signs(update, LAYERS).all())


def test_agreement_counts_what_points_the_other_way():
    signs_seen = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    assert float(sign_agreement(torch.tensor([[0.3, -0.1, 0.0, 0.7]]), signs_seen)) == pytest.approx(0.0)
    assert float(sign_agreement(torch.tensor([[-0.3, 0.1, 0.0, -0.7]]), signs_seen)) == pytest.approx(1.0)
    assert float(sign_agreement(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), 5 * signs_seen)) == pytest.approx(0.5)


def test_noise_is_what_the_stack_says_and_no_more_than_the_update_allows():
    draw = generator(2)
    updates = torch.randn(2, 4000, generator=draw)
    assert public_noise((), updates).tolist() == [0.0, 0.0]
    assert public_noise(("clip(c=1.0)",), updates).tolist() == [0.0, 0.0]
    stack = ("dp-local(clip_norm=2.0, noise_multiplier=0.1, epsilon_per_round=None)",)
    assert torch.allclose(public_noise(stack, updates), torch.tensor([0.2, 0.2]))
    solved = ("dp-local(clip_norm=2.0, noise_multiplier=None, epsilon_per_round=3.0)",)
    assert torch.allclose(public_noise(solved, updates), torch.ones(2), atol=0.1)
    signal = torch.zeros(1, 4000)
    signal[0, 0] = 4000**0.5
    assert float(noise_ratio(signal + updates[:1], torch.ones(1))) == pytest.approx(1.0, rel=0.15)


def test_the_families_are_declared():
    for attack in (InvertingGradients, ImprovedDeepLeakage, GradInversion):
        assert {"compression", "differential privacy", "clipping"} <= attack.adaptive_to
