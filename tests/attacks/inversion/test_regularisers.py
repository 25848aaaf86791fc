import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.inversion import engine
from fedsec.attacks.inversion.gradinversion import GradInversion
from fedsec.attacks.inversion.regularisers import consensus, energy, moved, shifts
from fedsec.protocol.outcome import NotApplicable
from fedsec.randomness import generator


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(-2, 2), st.integers(-2, 2))
def test_a_translation_is_found_as_by_trying_all(seed, down, right):
    image = torch.rand(1, 2, 9, 8, generator=generator(seed, "image"))
    away = image.roll((down, right), (2, 3)) + 0.05 * torch.rand(1, 2, 9, 8, generator=generator(seed, "noise"))
    found, _ = shifts(away, image, most=2)
    tried = {
        (i, j): float((away.roll((i, j), (2, 3)) - image).square().sum()) for i in range(-2, 3) for j in range(-2, 3)
    }
    assert tuple(found[0].tolist()) == min(tried, key=tried.get) == (-down, -right)
    assert torch.equal(moved(moved(away, found), -found), away)


def test_restarts_that_found_the_same_in_other_places_agree():
    base = torch.rand(3, 1, 8, 8, generator=generator(1))
    order, by = torch.tensor([1, 2, 0]), torch.tensor([[1, -1], [0, 2], [-2, 0]])
    other = moved(base[order], by)
    agreed = consensus(torch.stack([base, other]), torch.tensor([0.1, 0.2]), most=2)
    assert torch.allclose(agreed[0], base, atol=1e-6)
    assert torch.allclose(agreed[1], other, atol=1e-6)


def test_the_consensus_is_the_mean_and_inputs_without_neighbours_are_not_moved():
    x = torch.rand(4, 1, 5, generator=generator(2))
    agreed = consensus(x, torch.rand(4, generator=generator(3)), most=2)
    assert torch.allclose(agreed, x.mean(0).expand_as(x))


def test_energy_is_zero_in_the_middle():
    assert float(energy(torch.full((1, 2, 3), 5.0), (4.0, 6.0))) == 0
    assert float(energy(torch.full((1, 2, 3), 6.0), (4.0, 6.0))) == 0.25


def test_gradinversion_reads_batches(scene, networks):
    attack = GradInversion(iterations=200, restarts=3)
    s = scene(attack.threat, networks["mlp"](), clients=4, per_client=2)
    result = s.judge(attack.run(s.view, s.facts, generator=generator(0)))
    assert result["identified"] >= 0.6
    assert result["label_accuracy"] >= 0.7


def test_group_consistency_pulls_the_seeds_together(scene, networks, monkeypatch):
    s = scene(GradInversion.threat, networks["mlp"](), clients=1)
    spread, hot = {}, engine.evaluate
    for group in (0.0, 5.0):
        last = []

        def evaluate(lanes, x, last=last):
            last.append(x)
            return hot(lanes, x)

        monkeypatch.setattr(engine, "evaluate", evaluate)
        attack = GradInversion(iterations=60, restarts=3, group=group, langevin=0.0, group_shift=0)
        attack.run(s.view, s.facts, generator=generator(0))
        spread[group] = float(last[-1].var(0).mean())
    assert spread[5.0] < 0.5 * spread[0.0]


def test_gradinversion_needs_a_classifier(scene, networks):
    s = scene(GradInversion.threat, networks["mlp"](), clients=1)
    model = dataclasses.replace(s.facts.model, task="regression")
    with pytest.raises(NotApplicable, match="not classification"):
        GradInversion().run(s.view, dataclasses.replace(s.facts, model=model), generator=generator(0))
