"""The integrity judges on predictions whose figures are known."""

import math

import pytest
import torch

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import DataError
from fedsec.judges.base import Outcome
from fedsec.judges.integrity import CAP, AvailabilityJudge, TargetedJudge, errors


def info(task="classification", classes=4):
    return DatasetInfo(
        name="toy", summary="", task=task, input_shape=(1,), classes=tuple("abcdefgh"[:classes]), bounds=None,
        modality="tabular", vocabulary=10 if task == "next-token" else 0,
    )  # fmt: skip


def labelled(y):
    return Examples(torch.zeros(len(y), 1), torch.tensor(y))


TEST = labelled([0, 0, 0, 0, 1, 1, 2, 3])
HONEST = Outcome(
    predictions=torch.tensor([0, 0, 0, 1, 1, 1, 2, 3]),
    accuracy=(0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 0.8),
    rounds=tuple(range(7)),
)
ATTACKED = Outcome(
    predictions=torch.tensor([1, 1, 0, 1, 1, 0, 2, 2]),
    accuracy=(0.1, 0.4, 0.4, 0.2, 0.3, 0.5, 0.5),
    rounds=tuple(range(7)),
)


def named(judgement):
    return {measurement.name: measurement for measurement in judgement.measurements}


def value(measurement):
    return float(measurement.units.double().mean())


def test_availability_of_known_predictions():
    judgement = AvailabilityJudge().compare(HONEST, ATTACKED, TEST, info(), {})
    found = named(judgement)
    assert [m.name for m in judgement.measurements if m.headline] == ["error"]
    assert found["error"].units.tolist() == [1, 1, 0, 1, 0, 1, 0, 1]
    assert found["error"].floor_units.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert found["error"].ceiling == 0.75
    assert value(found["accuracy_drop"]) == pytest.approx(0.5)
    assert value(found["accuracy_last"]) == pytest.approx((0.4 + 0.2 + 0.3 + 0.5 + 0.5) / 5)
    assert float(found["accuracy_last"].floor_units.mean()) == pytest.approx((0.6 + 0.7 + 0.8 + 0.9 + 0.8) / 5)
    assert found["accuracy_last"].ceiling == 0.25
    assert found["accuracy_worst"].units.tolist() == [0.2]
    assert found["accuracy_worst"].floor_units.tolist() == [0.7]
    assert judgement.exhibits["curve/honest/x"].tolist() == list(range(7))
    assert judgement.exhibits["curve/attacked/y"].tolist() == list(ATTACKED.accuracy)
    assert judgement.notes == ()


def test_without_a_watch_nothing_is_said_of_detection():
    names = set(named(AvailabilityJudge().compare(HONEST, ATTACKED, TEST, info(), {})))
    assert names == {"error", "accuracy_drop", "accuracy_last", "accuracy_worst"}


def test_no_attack_is_at_its_floor():
    found = named(AvailabilityJudge().compare(HONEST, HONEST, TEST, info(), {}))
    assert torch.equal(found["error"].units, found["error"].floor_units)
    assert value(found["accuracy_drop"]) == 0.0


def test_a_useless_honest_model_is_noted():
    useless = Outcome(predictions=torch.full((8,), 3), accuracy=(0.1,), rounds=(0,))
    assert AvailabilityJudge().compare(useless, ATTACKED, TEST, info(), {}).notes


def test_targeted_of_known_predictions():
    judgement = TargetedJudge().compare(HONEST, ATTACKED, TEST, info(), {"source": 0, "target": 1})
    found = named(judgement)
    assert [m.name for m in judgement.measurements if m.headline] == ["attack_success"]
    assert found["attack_success"].units.tolist() == [1, 1, 0, 1]
    assert found["attack_success"].floor_units.tolist() == [0, 0, 0, 1]
    assert value(found["accuracy_drop"]) == pytest.approx(0.5)
    assert found["error_elsewhere"].units.tolist() == [0, 1, 0, 1]
    assert found["error_elsewhere"].floor_units.tolist() == [0, 0, 0, 0]
    assert "a taken for b" in found["attack_success"].description
    assert "curve/attacked/x" in judgement.exhibits


def test_targeted_refuses_what_it_cannot_measure():
    judge = TargetedJudge()
    with pytest.raises(ValueError, match="source and target"):
        judge.compare(HONEST, ATTACKED, TEST, info(), {"source": 0})
    with pytest.raises(ValueError, match="regression"):
        judge.compare(HONEST, ATTACKED, TEST, info("regression", 0), {"source": 0, "target": 1})
    with pytest.raises(DataError, match="source class 3"):
        judge.compare(HONEST, ATTACKED, labelled([0] * 8), info(), {"source": 3, "target": 1})


def test_regression_is_relative_to_the_best_constant():
    test = Examples(torch.zeros(4, 1), torch.tensor([0.0, 2.0, 4.0, 2.0]))
    constant = torch.full((4,), 2.0)
    assert float(errors(constant, test, info("regression", 0)).mean()) == pytest.approx(1.0)
    assert not errors(test.y.clone(), test, info("regression", 0)).any()
    diverged = torch.tensor([math.nan, math.inf, -math.inf, 1e30])
    assert errors(diverged, test, info("regression", 0)).tolist() == [CAP] * 4
    outcome = Outcome(predictions=constant, accuracy=(0.0,), rounds=(0,))
    exact = Outcome(predictions=test.y.clone(), accuracy=(1.0,), rounds=(0,))
    found = named(AvailabilityJudge().compare(exact, outcome, test, info("regression", 0), {}))
    assert value(found["error"]) == pytest.approx(found["error"].ceiling)
    assert "accuracy_drop" not in found


def test_next_tokens_are_averaged_over_a_sequence():
    test = Examples(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    guessed = torch.tensor([[1, 2, 0], [4, 5, 6]])
    assert errors(guessed, test, info("next-token", 0)).tolist() == pytest.approx([1 / 3, 0.0])
