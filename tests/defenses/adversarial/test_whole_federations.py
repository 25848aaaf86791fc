"""Adversarial training inside whole federations: rounds, reports, other stages and controlled clients."""

from typing import ClassVar

import pytest
import torch
from digit_federation import digits, trained

from fedsec.attacks.evasion import pgd
from fedsec.attacks.poisoning.model import SignFlip
from fedsec.defenses.adversarial.fast_gradient_training import FGSMTraining
from fedsec.defenses.adversarial.free_training import FreeTraining
from fedsec.defenses.adversarial.pgd_training import PGDTraining
from fedsec.defenses.aggregation.neighbour_rules import MultiKrum
from fedsec.defenses.privacy.local import LocalDP

SMALL = {"clients": 6, "rounds": 4}


def test_what_clients_see_of_overfitting_reaches_the_diagnostics():
    found = trained((FGSMTraining(eps=0.1),), **SMALL).diagnostics
    assert set(found) == {"fgsm-at.fgsm_accuracy", "fgsm-at.pgd_accuracy", "fgsm-at.overfits"}
    assert 0 <= found["fgsm-at.pgd_accuracy"] <= found["fgsm-at.fgsm_accuracy"] <= 1


def test_the_round_reaches_the_steps():
    """A ramp over one round trains on half the size in it, and on the whole size from then on."""
    whole, half, ramped = PGDTraining(steps=2), PGDTraining(eps=0.05, steps=2), PGDTraining(steps=2, ramp=1)

    def released(defense, rounds):
        return trained((defense,), clients=6, rounds=rounds).released

    assert torch.equal(released(ramped, 1), released(half, 1))
    assert not torch.equal(released(ramped, 1), released(whole, 1))
    assert not torch.equal(released(ramped, 2), released(half, 2))


@pytest.mark.parametrize("defense", [FGSMTraining(eps=0.1), FreeTraining(eps=0.1, replays=2)])
def test_it_goes_with_noise_on_updates_and_with_any_rule(defense):
    noisy = trained((defense, LocalDP(noise_multiplier=0.05)), **SMALL)
    alone = trained((LocalDP(noise_multiplier=0.05),), **SMALL)
    assert noisy.claims == alone.claims
    assert not torch.equal(noisy.released, alone.released)
    assert trained((defense, MultiKrum(m=4)), **SMALL).accuracy[-1] > 0.5


class Counted(PGDTraining):
    """Notes whose steps it wraps."""

    seen: ClassVar[list[int]] = []

    def local(self, step):
        wrapped = super().local(step)

        def noted(lanes, x, y):
            self.seen.append(len(lanes.keys))
            return wrapped(lanes, x, y)

        return noted


def test_controlled_clients_do_not_run_it():
    Counted.seen.clear()
    trained((Counted(eps=0.1, steps=1),), clients=6, rounds=1)
    everyone = sum(Counted.seen)
    Counted.seen.clear()
    trained((Counted(eps=0.1, steps=1),), SignFlip(fraction=0.5), clients=6, rounds=1)
    assert sum(Counted.seen) == pytest.approx(everyone / 2, rel=0.2)


def test_federated_adversarial_training_is_robust_where_plain_training_is_not():
    options = {"clients": 6, "rounds": 12}
    setup = digits(**options)
    test = setup.split.test

    def robust(stack):
        net = setup.model.instance(trained(stack, **options).released)
        found = pgd(net, test.x, test.y, eps=0.15, steps=10, generator=torch.Generator().manual_seed(0))
        return (net(found).argmax(-1) == test.y).float().mean().item()

    assert robust((PGDTraining(eps=0.15, steps=5),)) > robust(()) + 0.05
