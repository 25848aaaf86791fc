import numpy as np
import pytest
import torch
from torch import nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.judges.base import Truth
from fedsec.judges.property import PropertyJudge
from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import MembershipScores, PropertyScores, SeveralProperties
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


def truth_of(share, behind=None, shares=None):
    model = FlatModel.of(nn.Linear(3, 2), task="classification", name="toy")
    nothing = Examples(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    return Truth(
        info=INFO,
        model=model,
        released=model.vector(),
        initial=model.vector(),
        behind=behind or {},
        test=nothing,
        decoys=nothing,
        candidates=None,
        members=None,
        property_name="sex",
        property_share=share,
        property_shares=shares or {},
        generator=torch.Generator(),
    )


def evidence(scores, control=None, sources=SOURCES):
    control = torch.zeros(len(sources)) if control is None else control
    return PropertyScores(sources=sources, scores=torch.as_tensor(scores), control=control)


SHARE = {source: 0.9 if source[1] in {"client:0", "client:1"} else 0.1 for source in SOURCES}


def test_right_scores_have_the_whole_advantage_and_clients_are_clusters():
    right = [SHARE[s] for s in SOURCES]
    judgement = PropertyJudge().measure(evidence(right), truth_of(SHARE))
    area = judgement.measurements[0]
    assert [one.headline for one in judgement.measurements] == [True, False]
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
    assert pool(judgement.measurements[:1], generator=np.random.default_rng(0)).advantage == 0


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


def test_several_properties_each_have_a_number_and_the_worst_is_the_headline():
    race = {source: 0.9 if source[1] in {"client:1", "client:2"} else 0.1 for source in SOURCES}
    several = SeveralProperties(
        scores={
            "sex": evidence([SHARE[s] for s in SOURCES]),
            "race=Black": evidence([SHARE[s] for s in SOURCES], control=torch.tensor([race[s] for s in SOURCES])),
        }
    )
    judgement = PropertyJudge().measure(several, truth_of(SHARE, shares={"sex": SHARE, "race=Black": race}))
    found = {one.name: pool([one], generator=np.random.default_rng(0)) for one in judgement.measurements}
    assert sorted(found) == ["auc", "auc:race=Black", "auc:sex", "permuted:race=Black", "permuted:sex"]
    assert [one.name for one in judgement.measurements if one.headline] == ["auc"]
    assert found["auc"].value == found["auc:sex"].value == 1
    assert found["auc:race=Black"].value == 0.5
    # the highest of several is compared with the highest of several controls
    assert found["auc"].floor == found["permuted:race=Black"].value == 1
    assert found["permuted:sex"].low <= 0.5 <= found["permuted:sex"].high
    assert {name for name in judgement.exhibits if name.startswith("curve/sex/")} == {"curve/sex/x", "curve/sex/y"}
    assert judgement.exhibits["curve/sex/y"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="nothing is known of the property 'sex'"):
        PropertyJudge().measure(several, truth_of(SHARE, shares={"race=Black": race}))


def test_a_property_that_all_have_is_a_note_beside_the_others():
    several = SeveralProperties(scores={"sex": evidence([SHARE[s] for s in SOURCES]), "age": evidence([0.0] * 8)})
    shares = {"sex": SHARE, "age": dict.fromkeys(SOURCES, 0.9)}
    judgement = PropertyJudge().measure(several, truth_of(SHARE, shares=shares))
    assert "all of them" in judgement.notes[0]
    assert "'age'" in judgement.notes[0]
    assert not any("age" in one.name for one in judgement.measurements)


def test_labels_alone_are_measured_beside():
    def behind(ones):
        return {
            s: Examples(torch.zeros(10, 3), (torch.arange(10) < ones(s)).long())
            for s in SOURCES
        }  # fmt: skip

    def labels(ones):
        judgement = PropertyJudge().measure(evidence([0.0] * 8), truth_of(SHARE, behind=behind(ones)))
        return next(one for one in judgement.measurements if one.name == "labels")

    told = labels(lambda s: 8 if SHARE[s] > 0.5 else 2)
    assert pool([told], generator=np.random.default_rng(0)).value == 1
    silent = labels(lambda s: 5)
    assert pool([silent], generator=np.random.default_rng(0)).value == 0.5


def test_an_aggregate_of_as_many_with_as_without_is_left_out():
    sources = tuple((r, "server") for r in range(5))
    share = dict(zip(sources, (0.9, 0.51, 0.1, 0.9, 0.1), strict=True))
    judgement = PropertyJudge().measure(evidence([1.0, -5.0, 0.0, 1.0, 0.0], sources=sources), truth_of(share))
    assert len(judgement.measurements[0].units) == 4
    assert "1 aggregates were left out" in judgement.notes[0]
    # rounds with one unit each: areas of all rounds so far
    assert judgement.exhibits["curve/sex/x"].tolist() == [2, 3, 4]


def test_the_surest_right_clients_are_exposed():
    scores = [SHARE[s] - 0.5 + (1 if s[1] == "client:1" else 0) for s in SOURCES]
    judgement = PropertyJudge().measure(evidence(scores), truth_of(SHARE))
    assert judgement.exposed[0].unit == "client:1"
    assert judgement.exposed[0].text == "sex read rightly from 2 of 2 updates"


def test_a_released_model_is_one_guess_per_property():
    source = ((3, "public"),)
    several = SeveralProperties(
        scores={
            "sex": PropertyScores(sources=source, scores=torch.tensor([2.0]), control=torch.tensor([-1.0])),
            "age": PropertyScores(sources=source, scores=torch.tensor([2.0]), control=torch.tensor([-1.0])),
        }
    )
    shares = {"sex": {source[0]: 0.7}, "age": {source[0]: 0.3}}
    judgement = PropertyJudge().measure(several, truth_of({}, shares=shares))
    (guessed,) = judgement.measurements
    assert guessed.units.tolist() == [1, 0]
    assert guessed.floor_units.tolist() == [0, 1]
