"""Noise, zeros, values that are no numbers, boosted updates, and free riders."""

import math

import pytest
import torch

from fedsec.attacks.poisoning.crude import GaussianUpdate, NonFiniteUpdate, Scaling, ZeroUpdate
from fedsec.attacks.poisoning.free_rider import FreeRider
from fedsec.defenses.aggregation import coordinate_median, mean
from fedsec.randomness import generator

from .coalitions import coalition, facts


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "crude"))


def craft(adversary, view):
    return adversary.craft(view, facts(), generator=generator(1))


def test_noise_is_sized_by_each_clients_own_update():
    own = normal(3, 20_000) * torch.tensor([[1.0], [0.01], [0.0]])
    sent = craft(GaussianUpdate(scale=10.0), coalition(own))
    sizes = sent.square().mean(dim=1).sqrt()
    torch.testing.assert_close(sizes, torch.tensor([10.0, 0.1, 0.0]), rtol=0.05, atol=1e-9)
    assert abs(float(torch.nn.functional.cosine_similarity(sent[0], sent[1], dim=0))) < 0.05
    assert torch.equal(sent, craft(GaussianUpdate(scale=10.0), coalition(own)))


def test_noise_breaks_the_mean_and_not_the_median():
    honest = 1.0 + 0.1 * normal(14, 500)
    sent = craft(GaussianUpdate(), coalition(1.0 + 0.1 * normal(6, 500, seed=1)))
    rows = torch.cat([honest, sent])
    assert float((mean(rows) - 1.0).norm()) > 10 * float((coordinate_median(rows) - 1.0).norm())


def test_zeros_slow_the_mean_by_their_share():
    honest = normal(15, 30)
    sent = craft(ZeroUpdate(), coalition(normal(5, 30, seed=1)))
    assert not sent.any()
    torch.testing.assert_close(mean(torch.cat([honest, sent])), 0.75 * honest.mean(dim=0))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_non_finite_values_are_hidden_in_an_honest_update(value):
    own = normal(3, 50)
    before = own.clone()
    sent = craft(NonFiniteUpdate(value=value, coordinates=4), coalition(own))
    bad = ~torch.isfinite(sent)
    assert bad.sum(dim=1).tolist() == [4, 4, 4]
    assert all(math.isnan(x) if value == "nan" else x == float(value) for x in sent[bad].tolist())
    assert torch.equal(sent[~bad], own[~bad])
    assert torch.equal(own, before)
    everything = craft(NonFiniteUpdate(coordinates=1000), coalition(own))
    assert not torch.isfinite(everything).any()


def test_scaling_boosts_what_was_learned():
    own = normal(4, 9)
    torch.testing.assert_close(craft(Scaling(factor=7.0), coalition(own)), 7.0 * own)


def ride(rider, models):
    """What the riders send in each round, given the global models."""
    state, sent = {}, []
    for number, model in enumerate(models):
        view = coalition(normal(2, len(model)), model=model, state=state)
        object.__setattr__(view, "round", number)
        sent.append(rider.craft(view, facts(), generator=generator(number)))
    return sent


def test_free_riders_send_nothing_before_they_know_a_difference():
    for disguise in ("none", "noise", "delta", "noisy-delta"):
        (first,) = ride(FreeRider(disguise=disguise), [normal(30)])
        assert not first.any()


def test_free_riders_send_the_last_difference():
    models = [normal(40, seed=number) for number in range(3)]
    sent = ride(FreeRider(disguise="delta"), models)
    torch.testing.assert_close(sent[1], (models[1] - models[0]).expand(2, 40))
    torch.testing.assert_close(sent[2], (models[2] - models[1]).expand(2, 40))
    plain = ride(FreeRider(disguise="none"), models)
    assert not torch.stack(plain).any()


def test_free_riders_noise_fades_with_the_round():
    step = normal(20_000)
    models = [float(number) * step for number in range(5)]
    for disguise in ("noise", "noisy-delta"):
        sent = ride(FreeRider(disguise=disguise, noise=2.0, decay=1.0), models)
        for number in (1, 4):
            rest = sent[number] - (step if disguise == "noisy-delta" else 0.0)
            expected = 2.0 * float(step.std()) / (number + 1)
            torch.testing.assert_close(rest.std(dim=1), torch.full((2,), expected), rtol=0.05, atol=0.0)
            # the two riders do not send the same
            assert not torch.equal(rest[0], rest[1])
