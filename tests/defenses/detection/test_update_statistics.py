"""The detector: its features, its scores, what it catches and what it cannot."""

import math

import numpy as np
import pytest
import torch
from digit_federation import area, rates, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning.model import ALittleIsEnough, SignFlip
from fedsec.defenses.aggregation.coordinate_rules import CoordinateMedian
from fedsec.defenses.detection import FEATURES, outlier_scores, robust_z, select_outliers, update_features
from fedsec.defenses.detection.update_statistics import UpdateStatistics
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext
from fedsec.randomness import generator

METHODS = ("mad", "isolation-forest", "pca")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "detection"))


def honest(n=20, d=60, seed=0):
    return normal(d, seed=99) + 0.5 * normal(n, d, seed=seed)


def run(defense, values, number=0):
    layout = Layout((Slot("w", (values.shape[1],), 0, values.shape[1], True),))
    context = RoundContext(
        round=number, rounds=5, clients=(), layout=layout, population=20, cohort=20.0, sampling="all", seed=1
    )
    payload = Plain(values, torch.arange(1.0, len(values) + 1))
    return defense.preaggregate(Cohort([(tuple(range(len(values))), payload)]), context), context.report


def test_features_of_known_updates():
    U = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [-3.0, -4.0], [0.0, 8.0]])
    found = update_features(U)
    assert found.shape == (5, len(FEATURES))
    column = dict(zip(FEATURES, found.t(), strict=True))
    np.testing.assert_allclose(column["log norm"].numpy(), [math.log(5)] * 4 + [math.log(8)])
    np.testing.assert_allclose(column["cosine to the median"].numpy(), [1, 1, 1, -1, 0.8], atol=1e-6)
    np.testing.assert_allclose(column["positive signs"].numpy(), [1, 1, 1, 0, 1])


def test_components_equal_numpy():
    U = normal(9, 30)
    centred = U.double().numpy() - np.median(U.double().numpy(), axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    sizes = np.abs(left * values)
    unit = np.median(np.linalg.norm(centred, axis=1))
    found = update_features(U).numpy()
    np.testing.assert_allclose(found[:, 5:7] * unit, sizes[:, :2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, 7] * unit, np.sqrt(np.square(sizes[:, 2:]).sum(axis=1)), rtol=1e-5)


@given(seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_features_do_not_depend_on_the_scale_of_the_round_or_the_order(seed):
    U = normal(8, 25, seed=seed)
    one, other = update_features(U), update_features(U * 128.0)
    torch.testing.assert_close(other[:, 1:], one[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other[:, 0], one[:, 0] + math.log(128.0), rtol=1e-5, atol=1e-5)
    order = torch.randperm(8, generator=generator(seed))
    torch.testing.assert_close(update_features(U[order]), one[order], rtol=1e-4, atol=1e-4)


def test_robust_z_of_known_values():
    values = torch.tensor([[1.0], [2.0], [3.0], [4.0], [100.0]], dtype=torch.float64)
    np.testing.assert_allclose(robust_z(values).flatten().numpy(), np.array([-2, -1, 0, 1, 97]) / 1.4826)
    mostly_equal = torch.tensor([[1.0], [1.0], [1.0], [1.0], [6.0]], dtype=torch.float64)
    np.testing.assert_allclose(robust_z(mostly_equal).flatten().numpy(), [0, 0, 0, 0, 5 / 1.2533])
    assert not robust_z(torch.full((4, 2), 3.0, dtype=torch.float64)).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attack", ["sign flip", "large", "random"])
def test_catches_updates_that_stand_out_and_keeps_the_others(method, attack):
    U = honest()
    values = {"sign flip": -4 * U[:4], "large": 30 * U[:4], "random": 10 * normal(4, 60, seed=5)}[attack]
    U[:4] = values
    result, report = run(UpdateStatistics(method=method), U)
    dropped = {int(key.partition(":")[2]) for key in report if key.startswith("excluded:")}
    caught = dropped & {0, 1, 2, 3}
    if attack != "random" or method == "mad":
        assert len(caught) == 4
    else:  # random directions share no component, and trees isolate fewer of them
        assert caught
    assert len(dropped - caught) <= 3
    kept = [row for row in range(20) if row not in dropped]
    names, payload = result.matrix()
    assert names == tuple(kept)
    assert torch.equal(payload.values, U[kept])
    assert payload.weights.tolist() == [row + 1.0 for row in kept]
    assert report["selected"] == len(kept)
    scores = {row: report[f"score:{row}"] for row in range(20)}
    assert min(scores[row] for row in dropped) >= max(scores[row] for row in kept)


@pytest.mark.parametrize("method", METHODS)
def test_an_honest_round_loses_few(method):
    dropped = 0
    for seed in range(10):
        _, report = run(UpdateStatistics(method=method), honest(seed=seed))
        dropped += sum(key.startswith("excluded:") for key in report)
    assert dropped <= 20  # of 200


def test_cannot_see_an_attack_that_stays_inside_the_spread():
    U = honest()
    known = U[:8]
    U[:8] = known.mean(dim=0) + 0.25 * known.std(dim=0)
    _, report = run(UpdateStatistics(method="mad", threshold=20.0), U)
    assert not any(key.startswith("excluded:") for key in report)


def test_never_drops_more_than_its_share():
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 0.0])
    assert select_outliers(scores, threshold=5.0, most=2).tolist() == [True, True, False, False, False]
    U = honest(n=10)
    U[:4] = -50 * U[:4]
    _, report = run(UpdateStatistics(max_drop=0.2), U)
    assert sum(key.startswith("excluded:") for key in report) == 2


def test_identical_updates_and_tiny_cohorts_lose_nobody():
    for values in (honest(n=1).repeat(6, 1), honest(n=3), honest(n=1)):
        _, report = run(UpdateStatistics(), values)
        assert report["selected"] == len(values)
    assert torch.isfinite(outlier_scores(torch.zeros(5, 3), method="mad")).all()


def test_the_forest_is_deterministic():
    first, _ = run(UpdateStatistics(method="isolation-forest"), honest())
    second, _ = run(UpdateStatistics(method="isolation-forest"), honest())
    assert torch.equal(first.matrix()[1].values, second.matrix()[1].values)


def test_rows_that_are_not_finite_are_excluded_without_a_score():
    U = honest()
    U[3, 5] = math.nan
    kept, report = run(UpdateStatistics(), U)
    assert 3 not in kept.matrix()[0]
    assert report["excluded:3"] == 1.0
    assert "score:3" not in report
    assert "score:4" in report


def test_alie_passes_in_a_federation_and_sign_flipping_does_not():
    alie = trained((UpdateStatistics(threshold=20.0),), ALittleIsEnough(fraction=0.4))
    assert rates(alie)[0] == 0.0
    crude = trained((UpdateStatistics(),), SignFlip(fraction=0.2))
    assert rates(crude)[0] > 0.9
    assert area(crude) > 0.95


def test_a_rule_may_follow():
    crude = trained((UpdateStatistics(), CoordinateMedian()), SignFlip(fraction=0.2))
    assert rates(crude)[0] > 0.9
    assert crude.diagnostics["coordinate-median.selected"] == pytest.approx(
        crude.diagnostics["update-statistics.selected"]
    )
