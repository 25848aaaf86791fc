from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsec.data.examples import DatasetInfo, Examples, Feature
from fedsec.judges.base import Truth
from fedsec.judges.evasion import EvasionJudge
from fedsec.models.flat import FlatModel
from fedsec.protocol.evidence import AdversarialInputs, MembershipScores

INFO = DatasetInfo(
    name="toy",
    summary="",
    task="classification",
    input_shape=(1, 2, 2),
    classes=("dark", "light"),
    bounds=(0.0, 1.0),
    modality="image",
    public=True,
)


def truth_of(weight=10.0, count=40):
    """An image is light if its mean is above one half; every test image is 0.1 away from that."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model = FlatModel.of(net, task="classification", name="toy")
    vector = torch.tensor([0.0] * 4 + [weight / 4] * 4 + [0.0, -weight / 2])
    x = torch.full((count, 1, 2, 2), 0.4)
    x[count // 2 :] = 0.6
    test = Examples(x, (torch.arange(count) >= count // 2).long())
    return Truth(
        info=INFO,
        model=model,
        released=vector,
        initial=vector,
        behind={},
        test=test,
        decoys=test,
        candidates=None,
        members=None,
        property_name="",
        property_share={},
        generator=torch.Generator().manual_seed(0),
    )


def measured(inputs, truth):
    judgement = EvasionJudge().measure(AdversarialInputs(inputs=inputs, forwards=1, backwards=1), truth)
    return judgement, {m.name: m for m in judgement.measurements}


def test_a_perturbation_across_the_border_counts_and_noise_of_its_size_seldom_does():
    truth = truth_of()
    sign = torch.where(truth.test.y == 0, 1.0, -1.0).reshape(-1, 1, 1, 1)
    judgement, found = measured(truth.test.x + 0.12 * sign, truth)
    robust = found["robust_error"]
    assert robust.headline
    assert robust.units.mean() == 1
    # all four signs must agree in the wrong direction: one in sixteen
    assert robust.floor_units.mean() < 0.2
    assert found["clean_error"].units.mean() == 0
    assert found["mean_perturbation_linf"].units == pytest.approx(torch.full((40,), 0.12), abs=1e-6)
    assert found["mean_perturbation_l2"].units == pytest.approx(torch.full((40,), 0.24), abs=1e-6)
    assert judgement.exhibits["gallery/original"].shape == (8, 1, 2, 2)
    assert judgement.exhibits["gallery/reconstruction"].shape == (8, 1, 2, 2)
    step = torch.linspace(0.12, 0.2, 40).reshape(-1, 1, 1, 1).flip(0)
    exhibits = measured(truth.test.x + step * sign, truth)[0].exhibits
    assert exhibits["gallery/score"] == pytest.approx(
        (exhibits["gallery/reconstruction"] - exhibits["gallery/original"]).flatten(1).abs().amax(1)
    )
    assert exhibits["gallery/score"].tolist() == sorted(exhibits["gallery/score"].tolist())
    assert exhibits["gallery/score"][[0, -1]] == pytest.approx(torch.tensor([0.12, 0.2]), abs=1e-6)
    assert judgement.notes == ()


def test_points_beyond_the_ball_tell_distances_in_every_norm_and_count_in_no_error():
    truth = truth_of()
    sign = torch.where(truth.test.y == 0, 1.0, -1.0).reshape(-1, 1, 1, 1)
    inputs, nearest = truth.test.x.clone(), truth.test.x + 0.2 * sign
    inputs[0] += 0.12 * sign[0]
    nearest[3] = truth.test.x[3]  # found nothing
    evidence = AdversarialInputs(inputs=inputs, forwards=1, backwards=1, nearest=nearest, size=0.15)
    judgement = EvasionJudge().measure(evidence, truth)
    assert {m.name: m for m in judgement.measurements}["robust_error"].units.sum() == 1
    for norm, factor in (("linf", 1), ("l2", 2), ("l1", 4)):
        expected = torch.full((40,), 0.2 * factor)
        expected[0], expected[3] = 0.12 * factor, torch.inf
        assert judgement.exhibits[f"reach/{norm}"] == pytest.approx(expected, abs=1e-6)
    assert "reach/beyond" in judgement.exhibits
    assert "reach/beyond" not in measured(inputs, truth)[0].exhibits


def test_what_is_misread_as_it_is_has_no_distance_to_go():
    truth = truth_of()
    wrong = replace(truth, test=Examples(truth.test.x, 1 - truth.test.y))
    assert measured(truth.test.x, wrong)[0].exhibits["reach/l2"].tolist() == [0.0] * 40
    assert measured(truth.test.x, truth)[0].exhibits["reach/l2"].tolist() == [torch.inf] * 40


def test_clients_are_told_apart_by_their_classes():
    truth = replace(truth_of(), class_mix=torch.tensor([[5, 0], [5, 5], [0, 5]]))
    inputs = truth.test.x.clone()
    inputs[:20] += 0.12  # what is dark is read as light
    judgement, found = measured(inputs, truth)
    assert found["client_robust_error"].units.tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert torch.equal(judgement.exhibits["slices/mix"], truth.class_mix)
    assert torch.equal(judgement.exhibits["slices/classes"], truth.test.y)


def test_fewer_inputs_are_measured_against_the_first_tests():
    truth = truth_of()
    _, found = measured(truth.test.x[:7], truth)
    assert len(found["robust_error"].units) == 7


def test_inputs_outside_the_bounds_are_clipped_and_counted():
    truth = truth_of()
    inputs = truth.test.x.clone()
    inputs[0] += 5
    judgement, found = measured(inputs, truth)
    assert "1 inputs of the attack lay outside" in judgement.notes[0]
    assert found["mean_perturbation_linf"].units[0] == pytest.approx(0.6)


def test_a_saturated_model_is_noted():
    judgement, _ = measured(truth_of().test.x, truth_of(weight=1e6))
    assert any("gradient masking" in note for note in judgement.notes)


def test_an_attack_worse_than_noise_is_noted():
    truth = truth_of(count=400)
    away = torch.where(truth.test.y == 0, -1.0, 1.0).reshape(-1, 1, 1, 1)
    judgement, _ = measured(truth.test.x + 0.15 * away, truth)
    assert any("worse than random noise" in note for note in judgement.notes)


def test_private_originals_are_not_shown():
    truth = truth_of()
    hidden = replace(truth, info=replace(INFO, public=False))
    sign = torch.where(truth.test.y == 0, 1.0, -1.0).reshape(-1, 1, 1, 1)
    assert not [name for name in measured(truth.test.x + 0.12 * sign, hidden)[0].exhibits if "gallery" in name]


def test_other_evidence_is_refused():
    truth = truth_of()
    with pytest.raises(TypeError, match="MembershipScores"):
        EvasionJudge().measure(MembershipScores(scores=torch.zeros(2)), truth)
    with pytest.raises(ValueError, match="finite"):
        measured(truth.test.x * torch.nan, truth)
    with pytest.raises(ValueError, match="of shape"):
        measured(truth.test.x.flatten(1), truth)


def test_rows_of_a_table_are_compared_with_rows_and_torn_categories_are_told():
    """A column of three values decides; the attack swaps it, and noise swaps it to a value that decides or not."""
    features = (Feature(name="job", values=("a", "b", "c")), Feature(name="age"))
    info = replace(INFO, modality="tabular", input_shape=(4,), features=features)
    net = nn.Linear(4, 2)
    model = FlatModel.of(net, task="classification", name="toy")
    vector = torch.tensor([0.0] * 4 + [0.0, 10.0, 0.0, 0.0] + [0.0, -5.0])
    x = torch.tensor([1.0, 0.0, 0.0, 0.5]).repeat(40, 1)
    test = Examples(x, torch.zeros(40, dtype=torch.long))
    truth = replace(truth_of(), info=info, model=model, released=vector, initial=vector, test=test, decoys=test)
    attacked = torch.tensor([0.0, 1.0, 0.0, 0.5]).repeat(40, 1)
    judgement, found = measured(attacked, truth)
    assert found["robust_error"].units.mean() == 1
    assert 0.2 < found["robust_error"].floor_units.mean() < 0.8
    assert not any("category" in note for note in judgement.notes)
    judgement, _ = measured(attacked * 0.8, truth)
    assert any(note.startswith("40 rows") for note in judgement.notes)
