"""The judge of backdoors on probes whose figures are known."""

import pytest
import torch

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import DataError
from fedsec.judges.backdoor import BackdoorJudge, last_attack, rounds_until_gone
from fedsec.judges.base import Outcome

INFO = DatasetInfo(
    name="toy", summary="", task="classification", input_shape=(1,), classes=("cat", "dog"), bounds=None,
    modality="tabular",
)  # fmt: skip
TEST = Examples(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]))
ROUNDS = (1, 3, 5, 7, 9)


def watch(*acting, rounds=10):
    """Client 0 in every round, attacking in some of them."""
    number = torch.arange(rounds)
    return {
        "round": number,
        "client": torch.zeros_like(number),
        "controlled": torch.ones_like(number),
        "acting": torch.tensor([int(r in acting) for r in range(rounds)]),
        "excluded": torch.zeros_like(number),
        "examples": torch.ones_like(number),
        "majority": torch.zeros_like(number),
        "score": torch.full((rounds,), float("nan"), dtype=torch.float64),
    }


def outcome(predictions=(0, 0, 1, 1), probe=(True, False, True), **more):
    return Outcome(
        predictions=torch.tensor(predictions),
        accuracy=tuple(0.5 + 0.1 * i for i in range(5)),
        rounds=ROUNDS,
        probe=None if probe is None else torch.tensor(probe, dtype=torch.bool),
        **more,
    )


HONEST = outcome(probe=(False, False, True))


def judged(attacked, honest=HONEST):
    judgement = BackdoorJudge().compare(honest, attacked, TEST, INFO, {"target": 1})
    return judgement, {one.name: one for one in judgement.measurements}


def test_success_is_that_of_the_probe_and_the_floor_the_honest_models():
    judgement, found = judged(outcome(predictions=(0, 1, 1, 1)))
    assert [one.name for one in judgement.measurements if one.headline] == ["attack_success"]
    headline = found["attack_success"]
    assert headline.units.tolist() == [1, 0, 1]
    assert headline.floor_units.tolist() == [0, 0, 1]
    assert "as dog" in headline.description
    assert float(found["accuracy_drop"].units.mean()) == 0.25
    assert {"accuracy_last", "accuracy_worst"} <= set(found)
    assert "durability" not in found
    assert "success_last" not in found


def test_durability_counts_from_the_last_attack():
    shares = (0.1, 0.9, 0.7, 0.6, 0.2)
    judgement, found = judged(outcome(probes=shares, watch=watch(2, 3)))
    assert found["success_at_stop"].units.tolist() == [0.9]
    assert found["durability"].units.tolist() == [6.0]
    assert found["durability"].ceiling == 6.0
    assert found["durability"].unit == "rounds"
    assert float(found["success_last"].units.mean()) == pytest.approx(sum(shares) / 5)
    assert judgement.exhibits["curve/success/x"].tolist() == list(ROUNDS)
    assert judgement.exhibits["curve/success/y"].tolist() == list(shares)
    assert judgement.notes == ()


def test_a_backdoor_that_outlives_the_training_says_so():
    judgement, found = judged(outcome(probes=(0.1, 0.9, 0.9, 0.9, 0.9), watch=watch(2)))
    assert found["durability"].units.tolist() == [7.0]
    assert "may last longer" in judgement.notes[0]


def test_a_backdoor_that_was_never_there_lasts_zero_rounds():
    _, found = judged(outcome(probes=(0.1, 0.1, 0.1, 0.1, 0.1), watch=watch(3)))
    assert found["durability"].units.tolist() == [0.0]


def test_an_attack_until_the_end_has_no_durability():
    _, found = judged(outcome(probes=(0.1, 0.9, 0.9, 0.9, 0.9), watch=watch(2, 9)))
    assert "durability" not in found
    assert "success_last" in found


def test_no_attack_is_at_its_floor():
    _, found = judged(HONEST)
    assert torch.equal(found["attack_success"].units, found["attack_success"].floor_units)
    assert float(found["accuracy_drop"].units.mean()) == 0.0


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="has none"):
        judged(outcome(probe=None))
    with pytest.raises(DataError, match="nothing can be measured"):
        judged(outcome(probe=()), outcome(probe=()))


def test_helpers():
    assert last_attack(outcome()) is None
    assert last_attack(outcome(watch=watch())) is None
    assert last_attack(outcome(watch=watch(1, 4))) == 4
    assert rounds_until_gone((0, 5), (0.9, 0.9), 7) == (0, False)
    assert rounds_until_gone((0, 1, 2), (0.2, 0.9, 0.4), 1) == (1, True)
