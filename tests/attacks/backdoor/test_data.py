"""What data backdoors plant, what they ask for at deployment, and that they work and stay at their floor."""

import os

import backdoored as toy
import pytest
import torch

from fedsec.attacks.backdoor import natural
from fedsec.attacks.backdoor.clean_label import CleanLabelBackdoor, pushed_away, surrogate
from fedsec.attacks.backdoor.data import BadNets, DistributedBackdoor
from fedsec.attacks.backdoor.natural import EdgeCaseBackdoor, SemanticBackdoor, intensity
from fedsec.data.examples import Attribute, DatasetInfo, Examples
from fedsec.errors import ConfigurationError
from fedsec.models.flat import FlatModel
from fedsec.protocol.facts import PublicFacts
from fedsec.randomness import generator


def info(shape=(1, 12, 12), classes=10, task="classification", name="toy"):
    return DatasetInfo(
        name=name, summary="", task=task, input_shape=shape, classes=tuple(map(str, range(classes))),
        bounds=(0.0, 1.0), modality="image",
        attributes=(Attribute(name="pen", values=("blue", "red"), description=""),),
    )  # fmt: skip


def facts(known=None):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 10))
    model = FlatModel.of(module, task="classification", name="softmax")
    return PublicFacts(
        info=known or info(), model=model, initial=torch.zeros(1450), stack=(), population=20, cohort=10, rounds=5,
        rule="mean", knowledge=frozenset(),
    )  # fmt: skip


def shard(n=40):
    random = generator(3, "shard")
    return Examples(
        torch.rand(n, 1, 12, 12, generator=random) * 0.5,
        torch.arange(n) % 10,
        {"pen": torch.arange(n) // 10 % 2},
    )


def changed(before, after):
    return (before.x != after.x).flatten(1).any(1)


def test_badnets_marks_and_relabels_a_share():
    held = shard()
    kept = held.x.clone(), held.y.clone()
    attack = BadNets(target=4, ratio=0.3)
    bad = attack.poison(held, facts(), generator=generator(0))
    rows = changed(held, bad)
    assert int(rows.sum()) == 12
    assert bool((bad.y[rows] == 4).all())
    assert torch.equal(bad.y[~rows], held.y[~rows])
    mask = attack.mark(12, 12, None)
    assert bool((bad.x[rows][..., mask] == 1.0).all())
    assert torch.equal(bad.x[..., ~mask], held.x[..., ~mask])
    assert torch.equal(held.x, kept[0])
    assert torch.equal(held.y, kept[1])
    assert torch.equal(bad.x, attack.poison(held, facts(), generator=generator(0)).x)


@pytest.mark.parametrize("attack", [BadNets(ratio=0.0), DistributedBackdoor(ratio=0.0), SemanticBackdoor(ratio=0.0)])
def test_a_ratio_of_zero_poisons_nothing(attack):
    held = shard()
    bad = attack.poison(held, facts(), generator=generator(0))
    assert torch.equal(bad.x, held.x)
    assert torch.equal(bad.y, held.y)


def test_dba_clients_hold_one_bar_each_and_the_probe_has_all():
    attack = DistributedBackdoor(ratio=1.0)
    black = Examples(torch.zeros(8, 1, 12, 12), torch.arange(8))
    marks = []
    for place in range(6):
        bad = attack.poison_at(place, black, facts(), generator=generator(place))
        marks.append(bad.x[0, 0])
        assert bool((bad.x == bad.x[:1]).all())
        assert bad.y.tolist() == [2] * 8
    probe = attack.probe(black, info())
    torch.testing.assert_close(sum(marks[:4]), probe.x[0, 0])
    assert torch.equal(marks[4], marks[0])
    assert torch.equal(marks[5], marks[1])
    assert torch.equal(DistributedBackdoor(split=False).marked(black.x, info(), 3)[0, 0], probe.x[0, 0])


@pytest.mark.parametrize("attack", [BadNets(target=3), DistributedBackdoor(target=3), CleanLabelBackdoor(target=3)])
def test_the_probe_has_no_image_of_the_target_class(attack):
    held = shard()
    probe = attack.probe(held, info())
    assert len(probe) == int((held.y != 3).sum())
    assert set(probe.y.tolist()) == {3}
    assert attack.goal() == {"target": 3}


def test_impossible_targets_and_inputs_are_refused():
    with pytest.raises(ConfigurationError, match="classes 0 to 9"):
        BadNets(target=10).poison(shard(), facts(), generator=generator(0))
    with pytest.raises(ConfigurationError, match="classes 0 to 9"):
        BadNets(target=10).probe(shard(), info())
    with pytest.raises(ConfigurationError, match="needs classes"):
        BadNets().poison(shard(), facts(info(task="regression")), generator=generator(0))
    flat = info(shape=(144,))
    with pytest.raises(ConfigurationError, match="a mark on an image"):
        BadNets().probe(Examples(torch.zeros(2, 144), torch.tensor([1, 2])), flat)


def test_a_semantic_backdoor_relabels_a_natural_subset_and_nothing_else():
    held = shard()
    bright = intensity(held.x, (0.0, 1.0)) >= 0.25
    assert 0 < int(bright.sum()) < len(held)
    attack = SemanticBackdoor(source=7, target=2, intensity=0.25, ratio=0.01)
    kept = held.y.clone()
    bad = attack.poison(held, facts(), generator=generator(0))
    wanted = bright & (held.y == 7)
    assert torch.equal(bad.x, held.x)
    assert torch.equal(bad.y != held.y, wanted)
    assert torch.equal(held.y, kept)
    probe = attack.probe(held, info())
    assert torch.equal(probe.x, held.x[wanted])
    assert set(probe.y.tolist()) == {2}
    below = SemanticBackdoor(source=7, target=2, intensity=0.25, side="below").probe(held, info())
    assert len(below) + len(probe) == int((held.y == 7).sum())


def test_a_semantic_backdoor_by_an_attribute():
    held = shard()
    attack = SemanticBackdoor(source=7, target=2, attribute="pen", value=1, ratio=0.01)
    bad = attack.poison(held, facts(), generator=generator(0))
    assert torch.equal(bad.y != held.y, (held.y == 7) & (held.attributes["pen"] == 1))
    with pytest.raises(ConfigurationError, match=r"pen \(2 values\)"):
        SemanticBackdoor(attribute="hand").probe(held, info())
    with pytest.raises(ValueError, match="must differ"):
        SemanticBackdoor(source=2, target=2)


def test_a_semantic_backdoor_repeats_what_little_a_client_holds():
    held = shard()
    attack = SemanticBackdoor(source=7, target=2, attribute="pen", value=1, ratio=0.5)
    bad = attack.poison(held, facts(), generator=generator(0))
    own = held.x[(held.y == 7) & (held.attributes["pen"] == 1)]
    of_subset = (bad.x[:, None] == own).flatten(2).all(2).any(1)
    assert int(of_subset.sum()) == 20
    assert bool((bad.y[of_subset] == 2).all())
    assert torch.equal(bad.y[~of_subset], held.y[~of_subset])
    without = held.take((held.y != 7).nonzero().flatten())
    assert torch.equal(attack.poison(without, facts(), generator=generator(0)).y, without.y)


def test_edge_cases_come_from_elsewhere_and_are_tested_on_held_out_ones(monkeypatch):
    train, test = torch.full((5, 1, 12, 12), 0.75), torch.full((3, 1, 12, 12), 0.875)
    monkeypatch.setattr(natural, "tail_examples", lambda name, code: (train, test))
    held = shard()
    attack = EdgeCaseBackdoor(target=1, ratio=0.25)
    bad = attack.poison(held, facts(), generator=generator(0))
    rows = changed(held, bad)
    assert int(rows.sum()) == 10
    assert bool((bad.x[rows] == 0.75).all())
    assert set(bad.y[rows].tolist()) == {1}
    assert set(bad.attributes["pen"][rows].tolist()) == {-1}
    probe = attack.probe(held, info())
    assert torch.equal(probe.x, test)
    assert probe.y.tolist() == [1, 1, 1]


def test_tails_that_do_not_fit_are_refused():
    held = shard()
    with pytest.raises(ConfigurationError, match="another dataset"):
        EdgeCaseBackdoor(tail="digits").probe(held, info(name="digits"))
    with pytest.raises(ConfigurationError, match=r"inputs of the shape \(1, 12, 12\)"):
        EdgeCaseBackdoor(tail="digits").probe(held, info())
    with pytest.raises(ConfigurationError, match="no-such-data"):
        EdgeCaseBackdoor(tail="no-such-data").probe(held, info())


def test_clean_label_changes_no_label_and_only_images_of_the_target():
    held = shard()
    attack = CleanLabelBackdoor(target=3, eps=0.1, ratio=0.5)
    bad = attack.poison(held, facts(), generator=generator(0))
    rows = changed(held, bad)
    assert torch.equal(bad.y, held.y)
    assert int(rows.sum()) == 2
    assert set(held.y[rows].tolist()) == {3}
    mask = attack.mark(12, 12, None)
    assert int(mask.sum()) == 36
    moved = (bad.x - held.x)[rows][..., ~mask].abs()
    assert 0.0 < float(moved.max()) <= 0.1 + 1e-6
    assert float(bad.x.min()) >= 0.0
    only = CleanLabelBackdoor(target=3, eps=0.0).poison(held, facts(), generator=generator(0))
    assert torch.equal(only.x[..., ~mask], held.x[..., ~mask])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbed_images_are_hard_to_learn(norm):
    model, held = facts().model, shard(200)
    held = Examples(held.x + 0.5 * (held.y[:, None, None, None] == torch.arange(12)[:, None]), held.y)
    own = surrogate(model, torch.zeros(1450), held, steps=200, rate=0.2, generator=generator(1))
    with torch.no_grad():
        before = model.loss(own(held.x), held.y)
        moved = pushed_away(own, model, held.x, held.y, eps=0.2, norm=norm, steps=5, bounds=(0.0, 1.0))
        after = model.loss(own(moved), held.y)
    assert float((own(held.x).argmax(1) == held.y).double().mean()) > 0.9
    assert bool((after > before).all())
    size = (moved - held.x).flatten(1)
    assert float((size.abs().amax(1) if norm == "linf" else size.norm(dim=1)).max()) <= 0.2 + 1e-5
    assert 0.0 <= float(moved.min()) <= float(moved.max()) <= 1.0


def test_badnets_succeed_where_no_honest_model_would():
    where = toy.setup()
    attack = BadNets(fraction=0.25, target=0, ratio=0.3, shape="patch")
    result = toy.attacked(where, attack)
    floor = toy.floor(where, attack, toy.clean().released)
    assert floor < 0.1
    assert float(result.probe.double().mean()) > 0.5
    assert result.accuracy[-1] > toy.clean().accuracy[-1] - 0.03
    assert result.probes[-1] == pytest.approx(float(result.probe.double().mean()))


def test_clean_labels_succeed_and_perturbed_images_do_better_than_marked_ones():
    where = toy.setup()
    shares = [
        float(toy.attacked(where, attack).probe.double().mean())
        for attack in (CleanLabelBackdoor(fraction=0.5, size=2, eps=eps) for eps in (0.3, 0.0))
    ]
    assert shares[0] > 0.8
    assert shares[1] < shares[0] - 0.1
    assert toy.floor(where, CleanLabelBackdoor(size=2), toy.clean().released) < 0.2


def test_a_semantic_backdoor_succeeds_on_its_subset():
    where = toy.setup()
    attack = SemanticBackdoor(source=3, target=2, intensity=0.3, fraction=0.5)
    result = toy.attacked(where, attack)
    assert toy.floor(where, attack, toy.clean().released) < 0.1
    assert max(result.probes[-3:]) > 0.5
    assert result.accuracy[-1] > toy.clean().accuracy[-1] - 0.1


@pytest.mark.data
@pytest.mark.skipif("FEDSEC_DATA" not in os.environ, reason="FEDSEC_DATA is not set")
def test_tails_of_fashion_are_the_classes_of_its_files():
    train, test = natural.tail_examples("fashion-mnist", 5)
    assert train.shape == (6000, 1, 28, 28)
    assert test.shape == (1000, 1, 28, 28)
    digits = DatasetInfo(
        name="mnist", summary="", task="classification", input_shape=(1, 28, 28), classes=tuple("0123456789"),
        bounds=(0.0, 1.0), modality="image",
    )  # fmt: skip
    probe = EdgeCaseBackdoor().probe(Examples(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64)), digits)
    assert torch.equal(probe.x, test)


def test_without_poison_the_success_is_the_floor():
    where = toy.setup()
    attack = BadNets(fraction=0.25, target=0, ratio=0.0)
    result = toy.attacked(where, attack)
    torch.testing.assert_close(result.released, toy.clean().released, rtol=0, atol=1e-4)
    assert float(result.probe.double().mean()) == toy.floor(where, attack, toy.clean().released)


def test_an_attack_outside_its_rounds_does_nothing():
    where = toy.setup()
    attack = BadNets(fraction=0.25, target=0, first_round=where.rounds)
    torch.testing.assert_close(toy.attacked(where, attack).released, toy.clean().released, rtol=0, atol=1e-4)


def test_honest_clients_follow_the_stages_of_clients():
    assert BadNets(honest_clients=True).honest_stages
    assert not BadNets().honest_stages
