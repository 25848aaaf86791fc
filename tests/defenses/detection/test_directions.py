"""Two groups of directions: exact on known cosines, and what the detector drops and cannot see."""

import itertools

import pytest
import torch
from digit_federation import area, rates, setting, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec import geometry
from fedsec.attacks.poisoning.label_flip import LabelFlip
from fedsec.attacks.poisoning.model import ALittleIsEnough
from fedsec.attacks.sybil.identities import Sybil
from fedsec.defenses.detection import bipartition, leaning
from fedsec.defenses.detection.direction_clustering import DirectionClustering
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext
from fedsec.randomness import generator

METHODS = ("average", "complete", "single", "two-means")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "directions"))


def cosines_of(U):
    return geometry.cosines(geometry.gram(U))


def run(defense, U):
    layout = Layout((Slot("w", (U.shape[1],), 0, U.shape[1], True),))
    context = RoundContext(
        round=0, rounds=5, clients=(), layout=layout, population=20, cohort=20.0, sampling="all", seed=1
    )
    kept = defense.preaggregate(Cohort([(tuple(range(len(U))), Plain(U, torch.ones(len(U))))]), context)
    return kept.matrix()[0], context.report


@pytest.mark.parametrize("method", METHODS)
def test_separates_two_directions(method):
    U = torch.cat([normal(40, seed=1) + 0.3 * normal(12, 40), -normal(40, seed=1) + 0.3 * normal(5, 40, seed=2)])
    found = bipartition(cosines_of(U), method=method)
    assert found.second.tolist() == [False] * 12 + [True] * 5 or found.second.tolist() == [True] * 12 + [False] * 5
    assert found.separation > 0.8


@given(seed=st.integers(0, 199), n=st.integers(3, 8))
@settings(deadline=None, max_examples=25)
def test_single_linkage_makes_the_largest_cosine_between_the_groups_smallest(seed, n):
    cosines = cosines_of(normal(n, 5, seed=seed))

    def across(group):
        rest = [i for i in range(n) if i not in group]
        return max(float(cosines[i, j]) for i in group for j in rest)

    best = min(across(group) for size in range(1, n) for group in itertools.combinations(range(n), size))
    found = bipartition(cosines, method="single").second.nonzero().flatten().tolist()
    assert across(found) == pytest.approx(best)


def test_silhouette_and_tightness_of_known_cosines():
    cosines = torch.eye(4, dtype=torch.float64)
    cosines[0, 1] = cosines[1, 0] = 0.8
    cosines[2, 3] = cosines[3, 2] = 0.5
    found = bipartition(cosines, method="average")
    assert found.separation == pytest.approx((0.8 + 0.8 + 0.5 + 0.5) / 4)  # distances 0.2 and 0.5 inside, 1 across
    assert sorted(found.tightness) == pytest.approx([0.5, 0.8])


def test_identical_directions_are_one_group():
    U = normal(1, 30).repeat(6, 1) * torch.arange(1.0, 7.0).unsqueeze(1)
    assert bipartition(cosines_of(U), method="average").separation == 0.0
    kept, _ = run(DirectionClustering(separation=0.0), U)
    assert len(kept) == 6


def test_leaning_of_known_cosines():
    cosines = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, -0.5], [0.0, -0.5, 1.0]], dtype=torch.float64)
    found = leaning(cosines, torch.tensor([False, False, True]))
    assert found.tolist() == pytest.approx([-0.5, -1.0, 1.0 + 0.25])


def test_two_updates_have_no_groups():
    with pytest.raises(ValueError, match="n >= 3"):
        bipartition(torch.eye(2), method="average")


@pytest.mark.parametrize("method", METHODS)
def test_drops_the_smaller_group_and_scores_it_higher(method):
    aim = normal(50, seed=3)
    U = torch.cat([aim + 0.5 * normal(14, 50), -aim + 0.5 * normal(6, 50, seed=4)])
    kept, report = run(DirectionClustering(method=method), U)
    assert kept == tuple(range(14))
    scores = [report[f"score:{row}"] for row in range(20)]
    assert min(scores[14:]) > 0.5 > -0.5 > max(scores[:14])


def test_a_majority_of_look_alikes_is_dropped_only_as_the_tighter_group():
    aim = normal(50, seed=3)
    U = torch.cat([aim + 0.7 * normal(6, 50), -aim + 0.05 * normal(14, 50, seed=4)])
    assert run(DirectionClustering(drop="tighter"), U)[0] == tuple(range(6))
    assert run(DirectionClustering(drop="smaller"), U)[0] == tuple(range(6, 20))


def test_groups_that_are_not_apart_lose_nobody_but_are_scored():
    kept, report = run(DirectionClustering(), normal(60, seed=9) + 0.7 * normal(20, 60))
    assert len(kept) == 20
    assert sum(key.startswith("score:") for key in report) == 20
    assert report["silhouette"] < 0.25


def test_tiny_cohorts_are_left_alone_and_refused_beforehand():
    assert len(run(DirectionClustering(), normal(3, 9))[0]) == 3
    assert DirectionClustering().problems(setting(cohort=3.0))
    assert not DirectionClustering().problems(setting())


def test_catches_label_flipping_and_sybils_in_a_federation():
    for adversary in (LabelFlip(fraction=0.4), Sybil(carries=LabelFlip(), identities=15, fraction=0.1)):
        result = trained((DirectionClustering(),), adversary)
        caught, harmed = rates(result)
        assert caught > 0.9, adversary.name
        assert harmed < 0.1, adversary.name
        assert area(result) > 0.95
    assert result.accuracy[-1] > trained((), adversary).accuracy[-1] + 0.3


def test_alie_passes_and_honest_clients_pay():
    result = trained((DirectionClustering(method="average"),), ALittleIsEnough(fraction=0.4))
    caught, harmed = rates(result)
    assert caught < 0.2
    assert harmed > caught
    assert area(result) < 0.5


def test_on_skewed_data_it_drops_honest_clients_without_an_attacker():
    _, skewed = rates(trained((DirectionClustering(),), None, alpha=0.1))
    _, alike = rates(trained((DirectionClustering(),)))
    assert alike < 0.02
    assert skewed > 0.02
