from dataclasses import replace

import numpy as np
import pytest
import torch
from membership_toy import truth_of
from scipy import stats

from fedsec.judges.membership import MembershipJudge, of_each_client
from fedsec.protocol.evidence import AdversarialInputs, MembershipScores, OwnerScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.pooling import pool


def test_perfect_scores_have_the_whole_advantage_and_none_over_an_equal_floor():
    truth = truth_of()
    judgement = MembershipJudge().measure(MembershipScores(scores=truth.members.double()), truth)
    area, one, tenth = judgement.measurements
    assert area.headline
    assert (area.name, one.name, tenth.name) == ("auc", "tpr@0.01", "tpr@0.001")
    found = pool([area], generator=np.random.default_rng(0))
    assert (found.value, found.ceiling) == (1.0, 1.0)
    assert 0.5 <= found.floor < 0.75
    assert pool([one], generator=np.random.default_rng(0)).resolution == 1 / 30
    assert (judgement.exhibits["roc/fpr"][-1], judgement.exhibits["roc/tpr"][-1]) == (1, 1)
    same = MembershipJudge().measure(MembershipScores(scores=area.floor_units), truth).measurements[0]
    assert pool([same], generator=np.random.default_rng(0)).advantage == 0


def test_what_the_sample_cannot_resolve_is_noted():
    truth = truth_of()
    notes = MembershipJudge().measure(MembershipScores(scores=torch.zeros(60)), truth).notes
    assert len(notes) == 3
    assert "30 non-members: the smallest false positive rate above 0 that they resolve is 0.033" in notes[0]
    assert "rate of 1.0%: tpr@0.01 allows no" in notes[1]


@pytest.mark.parametrize(
    ("sigma", "area", "rate"), [(1.0, 0.7602, 0.0183), (0.541, 0.904, 0.107), (4.22, 0.5665, 0.0022)]
)
def test_exact_scores_of_the_gaussian_mechanism(sigma, area, rate):
    """N(1 / sigma, 1) against N(0, 1) by their quantiles: what the optimal test must score, without sampling."""
    count = 4_000
    quantiles = torch.from_numpy(stats.norm.ppf((np.arange(count) + 0.5) / count))
    truth = replace(truth_of(2 * count), members=torch.arange(2 * count) < count)
    scores = torch.cat([quantiles + 1 / sigma, quantiles])
    judgement = MembershipJudge().measure(MembershipScores(scores=scores), truth)
    found = {i: pool([judgement.measurements[i]], generator=np.random.default_rng(0)) for i in (0, 2)}
    assert found[0].value == pytest.approx(area, abs=1e-3)
    assert found[2].value == pytest.approx(rate, rel=0.1, abs=3e-4)
    assert found[0].low < area < found[0].high
    assert found[2].low < rate < found[2].high
    assert found[2].resolution == 1 / count


def test_exposed_examples_are_named_by_number_and_client():
    truth = replace(truth_of(200), owners=torch.where(torch.arange(200) % 2 == 0, torch.arange(200) // 50, -1))
    scores = torch.zeros(200, dtype=torch.float64)
    scores[6], scores[8], scores[60] = 3.0, 2.0, 1.0
    found = MembershipJudge().measure(MembershipScores(scores=scores), truth).exposed
    assert [one.unit for one in found] == [
        "candidate 6 of client:0",
        "candidate 8 of client:0",
        "candidate 60 of client:1",
        "client:0",
        "client:1",
    ]
    assert found[0].text == "scores above 100 of 100 non-members"
    assert found[3].text == "2 of its 25 candidates found at 1% false positives"
    assert [one.score for one in found[:3]] == [1.0, 1.0, 1.0]


def test_nobody_is_named_where_nobody_stands_out():
    truth = replace(truth_of(200), owners=torch.zeros(200, dtype=torch.int64))
    assert MembershipJudge().measure(MembershipScores(scores=torch.zeros(200)), truth).exposed == ()


def test_non_members_are_never_named():
    truth = truth_of(200)
    scores = torch.arange(200, dtype=torch.float64)
    found = MembershipJudge().measure(MembershipScores(scores=scores), truth).exposed
    assert [one.unit for one in found] == ["candidate 198"]


def test_scores_for_each_client_are_asked_of_each_client():
    """Members count at their owner, non-members everywhere, members of other clients nowhere."""
    scores = torch.tensor([[9.0, 0.0], [0.0, 8.0], [1.0, 2.0], [5.0, 5.0]])
    members, owners = torch.tensor([True, True, False, True]), torch.tensor([0, 1, -1, 7])
    asked = of_each_client(scores, (0, 1), members, owners)
    assert asked.scores.tolist() == [9, 8, 1, 2]
    assert asked.members.tolist() == [True, True, False, False]
    assert asked.rows.tolist() == [0, 1, 2, 2]
    truth = replace(truth_of(4), members=members, owners=owners)
    judgement = MembershipJudge().measure(OwnerScores(clients=(0, 1), scores=scores), truth)
    assert pool([judgement.measurements[0]], generator=np.random.default_rng(0)).value == 1
    assert "Asked of single clients" in judgement.notes[0]
    assert "1 members are left out" in judgement.notes[1]
    assert [one.unit for one in judgement.exposed][:2] == ["candidate 0 of client:0", "candidate 1 of client:1"]
    with pytest.raises(ValueError, match="expected scores of shape"):
        MembershipJudge().measure(OwnerScores(clients=(0,), scores=scores), truth)


def test_few_of_many_clients_are_asked_about_each_non_member():
    scores = torch.arange(20.0).reshape(2, 10)
    members, owners = torch.tensor([True, False]), torch.tensor([6, -1])
    asked = of_each_client(scores, tuple(range(10)), members, owners, generator=torch.Generator().manual_seed(0))
    assert asked.rows.tolist() == [0, 1, 1, 1, 1]
    assert asked.scores[0] == 6
    assert len(set(asked.scores[1:].tolist())) == 4
    assert min(asked.scores[1:].tolist()) >= 10


def test_without_a_challenge_it_is_not_applicable():
    truth = truth_of()
    scores = MembershipScores(scores=torch.zeros(60))
    for changes in ({"members": None}, {"candidates": None}, {"members": torch.ones(60, dtype=torch.bool)}):
        with pytest.raises(NotApplicable):
            MembershipJudge().measure(scores, replace(truth, **changes))


def test_other_evidence_is_refused():
    truth = truth_of()
    with pytest.raises(ValueError, match="one per candidate"):
        MembershipJudge().measure(MembershipScores(scores=torch.zeros(3)), truth)
    with pytest.raises(TypeError, match="AdversarialInputs"):
        MembershipJudge().measure(AdversarialInputs(inputs=torch.zeros(1), forwards=0, backwards=0), truth)
