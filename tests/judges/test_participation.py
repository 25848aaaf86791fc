from dataclasses import replace

import numpy as np
import pytest
import torch
from membership_toy import truth_of

from fedsec.judges.participation import ParticipationJudge
from fedsec.protocol.evidence import MembershipScores, ParticipationScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.pooling import pool

TRUTH = replace(truth_of(), participants=torch.tensor([True, False] * 10))


def measured(scores, truth=TRUTH):
    return ParticipationJudge().measure(ParticipationScores(scores=scores), truth)


def test_perfect_and_empty_scores():
    area, rate = measured(TRUTH.participants.double()).measurements
    assert pool([area], generator=np.random.default_rng(0)).value == 1
    assert pool([rate], generator=np.random.default_rng(0)).value == 1
    nothing = measured(torch.zeros(20)).measurements[0]
    assert pool([nothing], generator=np.random.default_rng(0)).advantage == 0


def test_participants_are_named_and_others_never():
    scores = torch.arange(20, dtype=torch.float64)
    found = measured(scores).exposed
    assert [one.unit for one in found][:2] == ["data set 18", "data set 16"]
    assert all(int(one.unit.removeprefix("data set ")) % 2 == 0 for one in found)
    assert found[0].text == "scores above 9 of 10 data sets that did not take part"
    assert measured(torch.zeros(20)).exposed == ()


def test_what_the_sample_resolves_is_noted():
    assert "10 data sets that did not take part" in measured(torch.zeros(20)).notes[0]


def test_what_it_refuses():
    with pytest.raises(ValueError, match="one per data set"):
        measured(torch.zeros(3))
    with pytest.raises(TypeError, match="participation scores"):
        ParticipationJudge().measure(MembershipScores(scores=torch.zeros(20)), TRUTH)
    with pytest.raises(NotApplicable):
        measured(torch.zeros(20), replace(TRUTH, participants=None))
    with pytest.raises(NotApplicable):
        measured(torch.zeros(20), replace(TRUTH, participants=torch.ones(20, dtype=torch.bool)))
