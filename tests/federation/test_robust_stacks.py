"""Robust rules, pre-aggregators and client momentum inside a federation on the digits."""

import dataclasses

import pytest
import torch

from fedsec.attacks.poisoning.model import InnerProductManipulation, SignFlip
from fedsec.audit.challenge import public_facts
from fedsec.data.partitions import Dirichlet
from fedsec.defenses.aggregation.centre_rules import DivideAndConquer, GeometricMedian
from fedsec.defenses.aggregation.client_momentum import ClientMomentum
from fedsec.defenses.aggregation.coordinate_rules import CoordinateMedian, TrimmedMean
from fedsec.defenses.aggregation.flame import Flame
from fedsec.defenses.aggregation.foolsgold import FoolsGold
from fedsec.defenses.aggregation.mixing_stages import AdaptiveClipping, Bucketing, NearestNeighborMixing
from fedsec.defenses.aggregation.neighbour_rules import Bulyan, MinimumDiameter, MultiKrum
from fedsec.defenses.aggregation.root_rules import FLTrust
from fedsec.defenses.aggregation.signguard import SignGuard
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.federation.rounds import Federation
from fedsec.federation.stages import Stages
from fedsec.protocol.compose import check_stack
from fedsec.protocol.payload import Plain
from fedsec.randomness import numpy_generator

CLIENTS, ROUNDS = 15, 4


@pytest.fixture(scope="module")
def setup(make_setup):
    return make_setup(clients=CLIENTS, train=450, rounds=ROUNDS)


def train(setup, stack, adversary=None):
    assert not check_stack(stack, setup.setting(stack))
    facts = public_facts(setup, stack, adversary) if adversary is not None else None
    return Federation(setup, stack, adversary=adversary, facts=facts).run()


@pytest.fixture(scope="module")
def broken(setup):
    """Accuracy of the plain mean without and with the attack that all stacks below face."""
    honest, attacked = train(setup, ()), train(setup, (), InnerProductManipulation(fraction=0.2, epsilon=5.0))
    assert honest.accuracy[-1] > 0.6
    assert attacked.accuracy[-1] < 0.3
    return honest.accuracy[-1]


@pytest.mark.parametrize(
    "stack",
    [
        (MultiKrum(),),
        (Bulyan(),),
        (MinimumDiameter(),),
        (DivideAndConquer(),),
        (SignGuard(),),
        (Flame(),),
        (FLTrust(),),
        (FoolsGold(),),
        (NearestNeighborMixing(), MultiKrum()),
        (AdaptiveClipping(), NearestNeighborMixing(), TrimmedMean()),
        (NearestNeighborMixing(), GeometricMedian()),
        (Bucketing(f=2), CoordinateMedian()),
    ],
    ids=lambda stack: "+".join(d.name for d in stack),
)
def test_stacks_withstand_what_breaks_the_mean(setup, broken, stack):
    result = train(setup, stack, InnerProductManipulation(fraction=0.2, epsilon=5.0))
    # random buckets spoil up to three of eight, which leaves the median little room
    assert result.accuracy[-1] > (0.4 if stack[0].name == "bucketing" else 0.8 * broken)
    scores, controlled = result.watch["score"], result.watch["controlled"].bool()
    assert scores.isfinite().all()
    if stack[0].name != "bucketing":
        assert float(scores[controlled].mean()) > float(scores[~controlled].mean())


def test_a_majority_breaks_flame_and_not_fltrust(setup, broken):
    majority = InnerProductManipulation(fraction=0.6, epsilon=1.0)
    assert train(setup, (Flame(),), majority).accuracy[-1] < 0.3
    trusted = train(setup, (FLTrust(),), majority)
    assert trusted.accuracy[-1] > 0.8 * broken
    assert trusted.detected == ((9, 0),) * ROUNDS


def test_fltrust_with_a_root_of_wrong_labels_follows_it(setup, broken):
    """The server's examples are of another task: each label is the next one."""
    split = setup.split
    auxiliary = dataclasses.replace(split.auxiliary, y=(split.auxiliary.y + 1) % 10)
    misled = dataclasses.replace(setup, split=dataclasses.replace(split, auxiliary=auxiliary))
    result = train(misled, (FLTrust(),))
    assert result.accuracy[-1] < 0.5 * broken


def test_fltrust_without_clean_examples_is_refused(setup):
    stack = (FLTrust(root_size=len(setup.split.auxiliary) + 1),)
    (refusal,) = check_stack(stack, setup.setting(stack))
    assert "clean examples" in refusal.found
    assert "auxiliary" in refusal.instead


def test_foolsgold_does_nothing_against_attackers_unlike_each_other(setup):
    """Each flips its own update: nobody is like anybody, and all keep their say."""
    result = train(setup, (FoolsGold(),), SignFlip(fraction=0.2))
    assert all(found == 0 for found, _ in result.detected)


def test_dropped_buckets_are_counted_person_by_person(setup):
    result = train(setup, (Bucketing(), MultiKrum(f=1)), InnerProductManipulation(fraction=0.2, epsilon=5.0))
    for found, harmed in result.detected:
        assert 1 <= found + harmed <= 4
    assert result.watch["score"].isfinite().all()
    assert len(result.watch["score"]) == CLIENTS * ROUNDS


def test_a_simulated_client_has_no_past_and_leaves_none(setup):
    """What an adversary rehearses may not run into the memory of the stage that it rehearses."""
    stages = Stages((ClientMomentum(),), setup.setting((ClientMomentum(),)), seed=1)
    first, second = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(1, dtype=torch.float64)
    for update in (first, second):
        assert torch.equal(stages.in_clear(Plain(update, weights), 0, (3,)).values, update)
    sent = stages.before_upload(Plain(first, weights), 0, (3,), bound=True)
    assert torch.equal(sent.values, first)
    later = stages.before_upload(Plain(second, weights), 1, (3,), bound=True)
    torch.testing.assert_close(later.values, 0.1 * second + 0.9 * first)
    assert torch.equal(stages.before_upload(Plain(second, weights), 1, (3,), bound=False).values, second)


@pytest.mark.parametrize("mixer", [NearestNeighborMixing(), Bucketing(), AdaptiveClipping()], ids=lambda d: d.name)
def test_client_level_privacy_does_not_claim_anything_behind_mixing(setup, mixer):
    stack = (ClientLevelDP(delta=0.001), mixer)
    (refusal,) = check_stack(stack, setup.setting(stack))
    assert f"{mixer.name} replaces the mean or what is averaged" in refusal.found


def test_mixing_helps_a_rule_on_skewed_data(make_setup):
    """Few classes per client: coordinate-wise rules lose accuracy with nobody attacking, and mixing gives it back."""
    setup = make_setup(clients=CLIENTS, train=900, rounds=10)
    partition = Dirichlet(alpha=0.1)
    index = partition.assign(setup.split.clients, CLIENTS, generator=numpy_generator(1, "skewed"))
    setup = dataclasses.replace(setup, partition=partition, index=index)
    alone = train(setup, (CoordinateMedian(),)).accuracy[-1]
    mixed = train(setup, (NearestNeighborMixing(), CoordinateMedian())).accuracy[-1]
    assert mixed > alone + 0.05
