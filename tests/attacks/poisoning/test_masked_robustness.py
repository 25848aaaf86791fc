"""Feigned robustness: what is enlarged and by how much, and what keeps it among the honest updates."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning.masked_robustness import MaskedRobustness, central, enlarged, reach
from fedsec.defenses.aggregation import krum
from fedsec.models.flat import FlatModel
from fedsec.randomness import generator

from .coalitions import coalition, facts


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "masked"))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    return FlatModel.of(module, task="classification", name="two layers")


def known(model, **more):
    return dataclasses.replace(facts(), model=model, initial=model.vector(), **more)


def craft(adversary, view, given):
    return adversary.craft(view, given, generator=generator(1))


def last(model, vector):
    return torch.cat([vector[s.start : s.stop] for s in model.layout.parameters if s.layer == "2"])


def test_logits_of_an_enlarged_model_are_as_many_times_as_large():
    model, x = network(), normal(7, 6)
    before, after = (model.instance(v)(x) for v in (model.vector(), enlarged(model.vector(), model.layout, 100.0)))
    torch.testing.assert_close(after, 100 * before)


def test_unbounded_it_makes_the_mean_a_hundred_times_as_large_and_no_more():
    model, own = network(), 0.01 * normal(4, network().layout.size)
    start, state = model.vector(), {}
    sent = craft(MaskedRobustness(), coalition(own, n=20, model=start, state=state), known(model))
    honest = torch.zeros(16, model.layout.size)
    after = start + torch.cat([sent, honest]).mean(0)
    factor = last(model, after).norm() / last(model, start).norm()
    assert float(factor) == pytest.approx(100, rel=0.02)
    # nothing is missing any more: the next round is honest
    quiet = craft(MaskedRobustness(), coalition(own, n=20, model=after, state=state), known(model))
    grown = last(model, after + torch.cat([quiet, honest]).mean(0)).norm() / last(model, after).norm()
    assert float(grown) == pytest.approx(1, abs=0.05)


def test_other_layers_are_what_training_gave():
    model, own = network(), 0.01 * normal(4, network().layout.size)
    for hides in ("no", "distance"):
        view = coalition(own, model=model.vector())
        sent = craft(MaskedRobustness(hides=hides), view, known(model))
        first = model.layout.parameters[0]
        assert torch.equal(sent[:, first.start : first.stop], own[:, first.start : first.stop])
        assert not torch.equal(sent, own)


def test_a_length_is_kept():
    model, own = network(), 0.1 * normal(4, network().layout.size)
    for slack in (0.5, 2.0):
        view = coalition(own, model=model.vector())
        sent = craft(MaskedRobustness(hides="length", slack=slack), view, known(model))
        assert torch.allclose(sent.norm(dim=1), slack * own.norm(dim=1).mean().expand(4))


@given(st.integers(2, 7), st.integers(1, 9), st.floats(0.3, 3.0), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_it_goes_as_far_as_distances_allow(count, d, slack, seed):
    known = normal(count, d, seed=seed)
    toward = normal(count, d, seed=seed + 1000)
    far = reach(known, toward, known, slack=slack)
    largest = slack * torch.cdist(known.double(), known.double()).max()
    unit = torch.nn.functional.normalize(toward.double(), dim=1)
    for row, own in enumerate(known.double()):
        gaps = (own + far[row] * unit[row] - known.double()).norm(dim=1)
        inside = (own - known.double()).norm(dim=1).max() <= largest
        if inside:
            assert float(gaps.max()) <= float(largest) * (1 + 1e-5)
            beyond = (own + (far[row] + 0.01) * unit[row] - known.double()).norm(dim=1).max()
            assert float(beyond) > float(largest) * (1 - 1e-5)
    assert reach(known, torch.zeros_like(toward), known, slack=slack).tolist() == [0.0] * count


def test_the_centre_is_the_one_that_krum_keeps_and_it_is_enlarged():
    d = 400
    for seed in range(5):
        honest, own = normal(16, d, seed=seed), normal(4, d, seed=seed + 50)
        toward = normal(d, seed=seed + 90)
        sent = central(1e3 * toward, own, slack=0.9)
        rows = torch.cat([sent.expand(4, d), honest])
        assert torch.equal(krum(rows, f=4), sent)
        moved = sent - own.mean(0)
        assert float(moved.norm()) > 0.3 * d**0.5
        assert float(torch.nn.functional.cosine_similarity(moved, toward, dim=0)) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(central(0.001 * toward, own, slack=1.0), own.mean(0) + 0.001 * toward, atol=1e-6)


def test_centre_and_distance_need_two_updates_and_take_those_of_earlier_rounds():
    model = network()
    for hides in ("centre", "distance"):
        state = {}
        own = 0.1 * normal(1, model.layout.size)
        adversary = MaskedRobustness(hides=hides, slack=1.5)
        assert torch.equal(craft(adversary, coalition(own, model=model.vector(), state=state), known(model)), own)
        again = 0.1 * normal(1, model.layout.size, seed=2)
        assert not torch.equal(
            craft(adversary, coalition(again, model=model.vector(), state=state), known(model)), again
        )


def test_it_starts_when_told_and_says_the_size():
    adversary = MaskedRobustness(first_round=7, eps=0.15)
    assert [adversary.acts(number, 0) for number in (6, 7, 8)] == [False, True, True]
    assert adversary.goal() == {"eps_thousandths": 150}
