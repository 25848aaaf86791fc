import dataclasses

import numpy as np
import pytest
import torch
from planted_scene import attacked, conv, federation, mlp, noised, rotated

from fedsec.attacks.inversion.layers import head
from fedsec.attacks.malicious.fishing import ClassFishing, FeatureFishing, caught, features_of, isolated
from fedsec.attacks.malicious.robbing_the_fed import RobbingTheFed
from fedsec.attacks.malicious.trap_weights import TrapWeights
from fedsec.federation.training import LocalTraining
from fedsec.protocol.outcome import NotApplicable
from fedsec.threat import Knowledge

CLASS = 3


def one_of_the_class(labels):
    """Six clients with one example of the class among sixteen."""
    mine = np.flatnonzero(labels.numpy() == CLASS)
    others = np.flatnonzero(labels.numpy() != CLASS)
    return [np.concatenate([mine[c : c + 1], others[15 * c : 15 * c + 15]]) for c in range(6)]


def only_the_class(labels):
    """Six clients with eight examples of the class each."""
    mine = np.flatnonzero(labels.numpy() == CLASS)
    return [mine[8 * c : 8 * c + 8] for c in range(6)]


def gradient_of(model, vector, examples):
    module = model.instance(vector)
    loss = model.loss(module(examples.x), examples.y).mean()
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])


@pytest.mark.parametrize("rows", [one_of_the_class, None], ids=["one", "random"])
def test_the_update_becomes_that_of_the_examples_of_one_class(rows):
    setup = federation(rows=rows)
    scene = attacked(setup, ClassFishing(target=CLASS))
    planted, model = scene.planting.setup.initial, scene.facts.model
    slots = head(model, planted, scene.facts.info.input_shape)
    checked = 0
    for event in scene.view.events[1:]:
        behind = scene.truth.behind[event.round, event.sender]
        mine = behind.take(torch.nonzero(behind.y == CLASS).flatten())
        left = caught(event.values, slots, target=CLASS, examples=len(behind), learning_rate=0.1)
        assert left == pytest.approx(len(mine), abs=0.02)
        if len(mine):
            expected = -0.1 * gradient_of(model, planted, mine)
            found = isolated(event.values, slots, target=CLASS, examples=len(behind), left=len(mine), learning_rate=0.1)
            assert float((found - expected).norm() / expected.norm()) < 1e-4
            checked += 1
    assert checked >= 4


def test_one_example_of_the_class_is_read_exactly_out_of_sixteen():
    scene = attacked(federation(rows=one_of_the_class), ClassFishing(target=CLASS))
    assert len(scene.evidence.sources) == 6
    for source, error in scene.errors().items():
        mine = scene.truth.behind[source].y == CLASS
        assert float(error[mine]) < 1e-3
    assert scene.metrics()["identified"] == 1.0


def test_a_convolutional_model_is_inverted_by_the_optimiser():
    setup = federation(conv, rows=lambda y: one_of_the_class(y)[:2])
    scene = attacked(setup, ClassFishing(target=CLASS, iterations=150, restarts=1))
    placebo = attacked(setup, ClassFishing(target=CLASS, iterations=150, restarts=1), change=noised())
    assert scene.metrics()["psnr"] > placebo.metrics()["psnr"] + 3
    with pytest.raises(NotApplicable, match="first layer"):
        attacked(setup, ClassFishing(target=CLASS, method="closed-form"))


@pytest.mark.parametrize("change", [rotated, noised()], ids=["another-client", "noise"])
def test_without_the_update_it_knows_nothing(change):
    scene = attacked(federation(rows=one_of_the_class), ClassFishing(target=CLASS), change=change)
    assert scene.exact(0.02) == 0.0


def test_several_local_steps_are_not_the_planted_head_any_more():
    def worst(local):
        scene = attacked(federation(rows=one_of_the_class, local=local), ClassFishing(target=CLASS))
        mine = [error[scene.truth.behind[source].y == CLASS] for source, error in scene.errors().items()]
        return float(torch.cat(mine).median())

    assert worst(LocalTraining(batch_size=None, learning_rate=0.1)) < 1e-4
    assert worst(LocalTraining(epochs=4, batch_size=4, learning_rate=0.1)) > 0.1


def test_clients_of_whom_nothing_is_caught_count_as_failures():
    def nobody(labels):
        others = np.flatnonzero(labels.numpy() != CLASS)
        return [others[16 * c : 16 * c + 16] for c in range(4)]

    scene = attacked(federation(rows=nobody), ClassFishing(target=CLASS))
    assert len(scene.evidence.sources) == 4
    assert bool((scene.evidence.inputs == 0.5).all())
    assert bool((scene.evidence.confidence == -1).all())
    found = next(m for m in scene.judgement().measurements if m.name == "identified")
    assert float(found.units.mean()) <= float(found.floor_units.mean()) + 0.25


def test_feature_fishing_leaves_those_above_the_cut():
    setup = federation(rows=only_the_class)
    attack = FeatureFishing(target=CLASS)
    scene = attacked(setup, attack)
    planted, model = scene.planting.setup.initial, scene.facts.model
    slots = head(model, planted, scene.facts.info.input_shape)
    weight, bias = slots.read(planted)
    feature = int(weight[CLASS].abs().argmax())
    cut = float(bias[CLASS] / -weight[CLASS, feature])
    singles = 0
    for event in scene.view.events[1:]:
        behind = scene.truth.behind[event.round, event.sender]
        values = features_of(model, planted, slots, behind.x)[:, feature]
        above = torch.nonzero(values > cut).flatten()
        left = caught(event.values, slots, target=CLASS, examples=len(behind), learning_rate=0.1)
        assert left == pytest.approx(len(above), abs=0.2)
        if len(above):
            body = slice(0, slots.weight.start)
            expected = -0.1 * gradient_of(model, planted, behind.take(above))[body] * len(above) / len(behind)
            assert float((event.values[body] - expected).norm() / expected.norm()) < 1e-2
        if len(above) == 1:
            singles += 1
            assert float(scene.errors()[event.round, event.sender][above]) < 1e-2
    assert singles >= 1


def test_feature_fishing_says_so_where_other_classes_speak_too():
    scene = attacked(federation(), FeatureFishing(target=CLASS))
    assert scene.exact() < 0.1


def test_a_head_without_bias_is_refused():
    with pytest.raises(NotApplicable, match="no bias"):
        attacked(federation(lambda: mlp(head_bias=False)), ClassFishing())
    with pytest.raises(NotApplicable, match="no class 12"):
        attacked(federation(), ClassFishing(target=12))


def test_a_class_that_is_named_needs_no_public_examples():
    assert Knowledge.AUXILIARY_DATA in ClassFishing().knows()
    assert Knowledge.AUXILIARY_DATA not in ClassFishing(target=3).knows()
    assert Knowledge.AUXILIARY_DATA in FeatureFishing(target=3).knows()
    named = attacked(federation(split=without_public(federation().split)), ClassFishing(target=CLASS))
    assert named.evidence.sources


def without_public(split):
    return dataclasses.replace(split, auxiliary=split.auxiliary.take([]))


@pytest.mark.parametrize("attack", [ClassFishing(), FeatureFishing(), TrapWeights(), RobbingTheFed()])
def test_tokens_are_refused(attack):
    setup = federation()
    info = dataclasses.replace(setup.info, bounds=None, vocabulary=9, modality="text")
    with pytest.raises(NotApplicable, match="tokens"):
        attacked(dataclasses.replace(setup, info=info), attack)
