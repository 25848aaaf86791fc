import numpy as np
import pytest
import torch
from torch import nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.judges.base import Truth
from fedsec.judges.property import PropertyJudge
from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import MembershipScores, PropertyScores
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
SOURCES = tuple((r, f"client:{c}") for r in range(2) for c in range(4))


def truth_of(share):
    model = FlatModel.of(nn.Linear(3, 2), task="classification", name="toy")
    nothing = Examples(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    return Truth(
        info=INFO,
        model=model,
        released=model.vector(),
        initial=model.vector(),
        behind={},
        test=nothing,
        decoys=nothing,
        candidates=None,
        members=None,
        property_name="sex",
        property_share=share,
        generator=torch.Generator(),
    )


def evidence(scores, control=None, sources=SOURCES):
    control = torch.zeros(len(sources)) if control is None else control
    return PropertyScores(sources=sources, scores=torch.as_tensor(scores), control=control)


SHARE = {source: 0.9 if source[1] in {"client:0", "client:1"} else 0.1 for source in SOURCES}


def test_right_scores_have_the_whole_advantage_and_clients_are_clusters():
    right = [SHARE[s] for s in SOURCES]
    judgement = PropertyJudge().measure(evidence(right), truth_of(SHARE))
    (area,) = judgement.measurements
    assert area.headline
    assert area.clusters.tolist() == [0, 1, 2, 3] * 2
    found = pool([area], generator=np.random.default_rng(0))
    assert (found.value, found.floor, found.advantage) == (1.0, 0.5, 1.0)
    # four clients seen twice are four observations
    assert found.low < 0.5
    assert judgement.notes == ()
    assert "sex" in area.description


def test_a_control_above_chance_is_the_floor():
    right = torch.tensor([SHARE[s] for s in SOURCES])
    judgement = PropertyJudge().measure(evidence(right, control=right), truth_of(SHARE))
    assert pool(judgement.measurements, generator=np.random.default_rng(0)).advantage == 0


def test_aggregates_of_different_rounds_are_different_units():
    sources = tuple((r, "server") for r in range(4))
    share = {source: 0.8 if source[0] % 2 else 0.2 for source in sources}
    judgement = PropertyJudge().measure(evidence([0.0, 1.0, 0.0, 1.0], sources=sources), truth_of(share))
    assert judgement.measurements[0].clusters.tolist() == [0, 1, 2, 3]


def test_unknown_sources_are_left_out_and_noted():
    share = {source: value for source, value in SHARE.items() if source != (0, "client:0")}
    judgement = PropertyJudge().measure(evidence([0.5] * 8), truth_of(share))
    assert len(judgement.measurements[0].units) == 7
    assert "1 scores were left out" in judgement.notes[0]


@pytest.mark.parametrize(("share", "which"), [(0.9, "all"), (0.5, "none"), (None, "none")])
def test_one_kind_of_update_is_not_applicable(share, which):
    shares = {} if share is None else dict.fromkeys(SOURCES, share)
    with pytest.raises(NotApplicable, match=which):
        PropertyJudge().measure(evidence([0.0] * 8), truth_of(shares))


def test_other_evidence_is_refused():
    with pytest.raises(TypeError, match="MembershipScores"):
        PropertyJudge().measure(MembershipScores(scores=torch.zeros(1)), truth_of(SHARE))
    with pytest.raises(ValueError, match="one per source"):
        PropertyJudge().measure(evidence([0.0]), truth_of(SHARE))
