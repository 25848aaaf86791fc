from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import stats

from fedsec.judges.base import Measurement
from fedsec.statistics.intervals import clopper_pearson
from fedsec.statistics.pooling import pool


def measurement(units, **rest):
    arrays = {k: torch.as_tensor(rest.pop(k)) for k in ("truths", "clusters", "floor_units") if k in rest}
    return Measurement(
        name="m", statistic=rest.pop("statistic", "mean"), units=torch.as_tensor(units), **arrays, **rest
    )


def pooled(*items, seed=0):
    return pool(items, generator=np.random.default_rng(seed))


def test_one_seed_of_a_share_is_clopper_pearson():
    result = pooled(measurement([0.0] * 20, headline=True, unit="share"))
    assert (result.value, result.low, result.high) == (0.0, *clopper_pearson(0, 20))
    assert result.high == pytest.approx(0.16843, abs=1e-5)
    assert (result.n, result.seeds, result.headline) == (20, (0.0,), True)


def test_seeds_that_agree_are_pooled_and_seeds_that_differ_widen_the_interval():
    alike = pooled(measurement([1.0] * 5 + [0.0] * 5), measurement([0.0] * 5 + [1.0] * 5))
    apart = pooled(measurement([1.0] * 10), measurement([0.0] * 10))
    assert alike.value == apart.value == 0.5
    assert alike.low <= clopper_pearson(10, 20)[0]
    assert (apart.low, apart.high) == (0.0, 1.0)


def test_clusters_count_as_one_unit_each_where_all_agree():
    result = pooled(measurement([0.0] * 40, clusters=[0] * 10 + [1] * 10 + [2] * 10 + [3] * 10))
    assert result.high == pytest.approx(clopper_pearson(0, 4)[1])


def test_advantage_is_measured_from_the_floor():
    result = pooled(measurement([0.8] * 10, floor_units=[0.6] * 10))
    assert result.floor == pytest.approx(0.6)
    assert result.advantage == pytest.approx(0.5)
    assert pooled(measurement([0.1, 0.1], floor=0.6)).advantage == 0
    assert pooled(measurement([0.5, 0.5], floor_units=[0.1, 0.1], floor=0.25)).floor == 0.25


def test_a_floor_at_the_ceiling_leaves_no_advantage_and_says_so():
    result = pooled(measurement([1.0] * 4, floor_units=[1.0] * 4, description="A number."))
    assert (result.advantage, result.advantage_low, result.advantage_high) == (0, 0, 0)
    assert result.description.startswith("A number. No advantage can be measured")


def test_auc_is_averaged_over_seeds_and_scores_are_never_mixed():
    truths = [True, True, False, False]
    shifted = pooled(
        measurement([3.0, 2.0, 1.0, 0.0], statistic="auc", truths=truths, floor=0.5),
        measurement([-7.0, -8.0, -9.0, -10.0], statistic="auc", truths=truths, floor=0.5),
    )
    assert (shifted.value, shifted.high, shifted.advantage) == (1.0, 1.0, 1.0)
    assert 0.3 < shifted.low < 1.0


def test_auc_floor_is_measured_or_theory():
    truths = [True, False, True, False]
    down = measurement([1.0, 0.0, 1.0, 0.0], statistic="auc", truths=truths, floor_units=[0.0, 1.0, 0.0, 1.0])
    assert pooled(down).floor == 0
    assert (
        pooled(measurement([1.0, 0, 1, 0], statistic="auc", truths=truths, floor_units=[0.0, 1, 0, 1], floor=0.5)).floor
        == 0.5
    )
    assert pooled(measurement([1.0, 0, 1, 0], statistic="auc", truths=truths)).floor == 0.5


def test_chance_around_a_floor_averages_out_over_seeds():
    truths = [True, False, True, False]
    lucky, unlucky = [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]
    items = [
        measurement(lucky, statistic="auc", truths=truths, floor_units=units, floor=0.5) for units in (lucky, unlucky)
    ]
    assert pooled(*items).floor == 0.5


def test_tpr_has_its_resolution():
    truths = np.arange(100) < 50
    result = pooled(measurement(np.where(truths, 1.0, 0.0), statistic="tpr@0.01", truths=truths, floor=0.01))
    assert result.value == 1.0
    assert result.resolution == 1 / 50
    assert result.low <= clopper_pearson(50, 50)[0]
    assert pooled(measurement([0.5])).resolution is None


def test_stored_cells_pool_like_measurements():
    item = measurement([1.0, 0.0, 1.0, 1.0, 0.0], clusters=[0, 0, 1, 1, 2], floor_units=[0.0, 0.0, 1.0])
    stored = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in asdict(item).items()}
    assert pooled(stored) == pooled(item)


def test_equal_generators_give_equal_results():
    generator = np.random.default_rng(8)
    items = [measurement(generator.random(30)) for _ in range(3)]
    assert pooled(*items) == pooled(*items)
    assert pooled(*items).value == pytest.approx(np.mean([i.units.mean().item() for i in items]))


def test_share_covers_when_seeds_differ():
    generator, hits = np.random.default_rng(9), 0
    for _ in range(60):
        rates = generator.beta(6, 6, size=4)
        items = [measurement((generator.random(40) < rate).astype(float)) for rate in rates]
        result = pool(items, generator=generator)
        hits += result.low <= 0.5 <= result.high
    assert hits >= 50


def test_clustered_auc_covers():
    generator, hits = np.random.default_rng(10), 0
    clusters = np.repeat(np.arange(16), 4)
    truths = clusters % 2 == 0
    for _ in range(60):
        scores = np.repeat(generator.normal(size=16), 4) + generator.normal(size=64) + truths
        result = pool([measurement(scores, statistic="auc", truths=truths, clusters=clusters)], generator=generator)
        hits += result.low <= stats.norm.cdf(1 / 2) <= result.high
    assert hits >= 54


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "nothing to pool"),
        ([measurement([])], "at least one unit"),
        ([measurement([float("nan")])], "finite"),
        ([measurement([1.0], statistic="auc")], "needs truths"),
        ([measurement([1.0], statistic="median", truths=[True])], "statistic is"),
        ([measurement([1.0]), measurement([1.0], statistic="auc", truths=[True])], "different metrics"),
    ],
)
def test_what_cannot_be_pooled_is_refused(items, message):
    with pytest.raises(ValueError, match=message):
        pool(items, generator=np.random.default_rng(0))
