from dataclasses import replace

import numpy as np
import pytest
import torch
from membership_toy import truth_of

from fedsec.judges.source import SourceJudge, credit
from fedsec.protocol.evidence import MembershipScores, OwnerScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.pooling import pool


def truth(owners):
    base = truth_of(len(owners))
    return replace(base, owners=torch.tensor(owners), members=torch.tensor(owners) >= 0)


def measured(scores, clients, held):
    evidence = OwnerScores(clients=clients, scores=torch.as_tensor(scores, dtype=torch.float64))
    return SourceJudge().measure(evidence, held)


def test_only_owned_candidates_count_and_the_floor_is_the_largest_owner():
    held = truth([0, 0, 0, 1, -1, 2])
    right = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 1, 0, 2]), 3)
    judgement = measured(right, (0, 1, 2), held)
    found = pool(list(judgement.measurements), generator=np.random.default_rng(0))
    assert (found.value, found.floor, found.n) == (1.0, 0.6, 5)
    assert judgement.exposed[0].text.startswith("named for")


def test_columns_are_clients_not_positions():
    held = truth([7, 7, 4, 4])
    judgement = measured([[0, 1], [0, 1], [1, 0], [0, 1]], (4, 7), held)
    assert judgement.measurements[0].units.tolist() == [1, 1, 1, 0]
    assert {one.unit: one.score for one in judgement.exposed} == {"client:7": 1.0, "client:4": 0.5}


def test_scores_that_say_nothing_are_chance():
    held = truth([0, 1, 2, 3] * 5)
    judgement = measured(torch.zeros(20, 4), (0, 1, 2, 3), held)
    assert float(judgement.measurements[0].units.mean()) == pytest.approx(0.25)
    found = pool(list(judgement.measurements), generator=np.random.default_rng(0))
    assert found.advantage == 0


def test_an_owner_that_was_not_seen_is_a_failure_and_noted():
    judgement = measured([[1.0], [1.0]], (0,), truth([0, 3]))
    assert judgement.measurements[0].units.tolist() == [1, 0]
    assert any("were not seen" in note for note in judgement.notes)


def test_what_the_labels_alone_tell_is_noted():
    held = truth([0] * 10 + [1] * 10)
    held = replace(held, candidates=replace(held.candidates, y=torch.tensor([0] * 10 + [1] * 10)))
    notes = measured(torch.zeros(20, 2), (0, 1), held).notes
    assert any("right for 100.0% by the label alone" in note for note in notes)


def test_ties_share_the_credit_and_no_number_is_worst():
    scores = torch.tensor([[1.0, 1.0, 0.0], [torch.nan, 2.0, 1.0]])
    assert credit(scores, torch.tensor([0, 0]), (0, 1, 2)).tolist() == [0.5, 0.0]


def test_what_it_refuses():
    held = truth([0, 1])
    with pytest.raises(ValueError, match="shape"):
        measured(torch.zeros(3, 2), (0, 1), held)
    with pytest.raises(TypeError, match="owner scores"):
        SourceJudge().measure(MembershipScores(scores=torch.zeros(2)), held)
    with pytest.raises(NotApplicable):
        measured(torch.zeros(2, 2), (0, 1), truth([-1, -1]))
    with pytest.raises(NotApplicable):
        measured(torch.zeros(2, 2), (0, 1), replace(held, owners=None))
