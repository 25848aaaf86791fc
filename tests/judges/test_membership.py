from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.judges.base import Truth
from fedsec.judges.membership import MembershipJudge
from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import AdversarialInputs, MembershipScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.pooling import pool

INFO = DatasetInfo(
    name="toy",
    summary="",
    task="classification",
    input_shape=(3,),
    classes=("a", "b"),
    bounds=(0.0, 1.0),
    modality="tabular",
)


def truth_of(count=60):
    model = FlatModel.of(nn.Linear(3, 2), task="classification", name="toy")
    generator = torch.Generator().manual_seed(0)
    candidates = Examples(torch.rand(count, 3, generator=generator), torch.randint(2, (count,), generator=generator))
    vector = torch.randn(8, generator=generator)
    return Truth(
        info=INFO,
        model=model,
        released=vector,
        initial=vector,
        behind={},
        test=candidates,
        decoys=candidates,
        candidates=candidates,
        members=torch.arange(count) % 2 == 0,
        property_name="",
        property_share={},
        generator=generator,
    )


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
    assert len(notes) == 2
    assert "rate of 1.0%: tpr@0.01 allows no" in notes[0]


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
