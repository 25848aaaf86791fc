"""The robust learning rate: a known answer, a slow reading, its threshold, and what it does to skewed data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation.learning_rate_sign import RobustLearningRate, robust_learning_rate
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext, Setting
from fedsec.randomness import generator
from fedsec.round_geometry import is_coordinatewise

LAYOUT = Layout((Slot("w", (4,), 0, 4, True),))


def run(defense, values):
    ctx = RoundContext(
        round=0, rounds=5, clients=(), layout=LAYOUT, population=20, cohort=10.0, sampling="all", seed=1
    )  # fmt: skip
    return defense.aggregate(Cohort([(tuple(range(len(values))), Plain(values, torch.ones(len(values))))]), ctx), ctx


def setting(cohort):
    return Setting(
        population=20, cohort=cohort, rounds=5, sampling="fixed", layout=LAYOUT, local_steps=1, batch_size=None,
        has_batch_norm=False, task="classification", bounds=None, stack=("robust-learning-rate",),
    )  # fmt: skip


def test_known_answer():
    """Sums of signs are 5, 1, -3 and 0: with a threshold of 3 the second coordinate turns."""
    U = torch.tensor([[1.0, 1, -1, 0], [1, 1, -1, 0], [1, 1, -1, 0], [1, -1, -1, 0], [1, -6, 1, 0]])
    assert robust_learning_rate(U, threshold=3).tolist() == pytest.approx([1.0, 0.8, -0.6, 0.0])
    result, ctx = run(RobustLearningRate(threshold=3), U)
    torch.testing.assert_close(result.values[0], robust_learning_rate(U, threshold=3))
    assert ctx.report["reversed share"] == 0.5  # a sum of 0 turns too, and 0 stays 0
    assert [ctx.report[f"score:{c}"] for c in range(5)] == [0.0, 0.0, 0.0, 0.25, 0.5]


@given(n=st.integers(1, 8), threshold=st.integers(0, 9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_a_slow_reading(n, threshold, seed):
    U = torch.randn(n, 5, generator=generator(seed, "rlr"))
    expected = []
    for column in U.double().t().tolist():
        agreement = abs(sum((x > 0) - (x < 0) for x in column))
        expected.append(sum(column) / n * (1 if agreement >= threshold else -1))
    assert robust_learning_rate(U, threshold=threshold).tolist() == pytest.approx(expected, abs=1e-6)


def test_thresholds_of_nothing_and_of_more_than_all():
    U = torch.randn(5, 4, generator=generator(0, "rlr"))
    torch.testing.assert_close(robust_learning_rate(U, threshold=0), U.mean(dim=0))
    torch.testing.assert_close(robust_learning_rate(U, threshold=6), -U.mean(dim=0))
    with pytest.raises(ValueError, match="negative"):
        robust_learning_rate(U, threshold=-1)
    assert is_coordinatewise(RobustLearningRate(f=1).function(5))


def test_a_backdoor_in_coordinates_of_its_own_is_undone_until_the_attackers_reach_the_threshold():
    """The last coordinate is used by attackers alone; honest clients are of two minds about it."""
    honest = torch.tensor([[1.0, 1, 1, 0.1], [1, 1, 1, -0.1]]).repeat(4, 1)
    bad = torch.tensor([[1.0, 1, 1, 2.0]])
    few = run(RobustLearningRate(f=2), torch.cat([honest, bad.repeat(2, 1)]))[0].values[0]
    many = run(RobustLearningRate(f=2), torch.cat([honest, bad.repeat(3, 1)]))[0].values[0]
    assert float(few[3]) < 0 < float(many[3])
    assert (few[:3] > 0).all()


def test_clients_that_do_not_agree_turn_training_round():
    """One class per client: each coordinate is wanted by one client, and none is learned."""
    result, ctx = run(RobustLearningRate(), torch.eye(4))
    assert ctx.report["reversed share"] == 1.0
    torch.testing.assert_close(result.values[0], torch.full((4,), -0.25))


@pytest.mark.parametrize(
    ("defense", "cohort", "refused"),
    [
        (RobustLearningRate(), 10, False),
        (RobustLearningRate(threshold=11, f=2), 10, True),
        (RobustLearningRate(threshold=2, f=2), 10, True),
        (RobustLearningRate(threshold=4, f=2), 10, False),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(defense, cohort, refused):
    problems = defense.problems(setting(cohort))
    assert bool(problems) == refused
    assert all("threshold" in found + hint for found, hint in problems)
