import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.statistics import bootstrap
from fedsec.statistics.intervals import auc, tpr_at_fpr


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_weighted_statistics_equal_the_statistics_of_repeated_units(seed):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, 14).astype(float)
    truths = np.arange(14) < 6
    counts = generator.integers(0, 4, 14)
    counts[0] = counts[13] = 1
    repeated, repeated_truths = np.repeat(scores, counts), np.repeat(truths, counts)
    weights = counts[None].astype(float)
    assert bootstrap.mean_of(scores)(weights)[0] == pytest.approx(repeated.mean())
    assert bootstrap.auc_of(scores, truths)(weights)[0] == pytest.approx(auc(repeated, repeated_truths))
    for fpr in (0.0, 0.2, 0.6):
        expected = tpr_at_fpr(repeated, repeated_truths, fpr)[0]
        assert bootstrap.tpr_of(scores, truths, fpr)(weights)[0] == pytest.approx(expected)


def test_strata_keep_their_sizes_and_clusters_stay_together():
    truths = np.arange(10) < 3
    rows = []

    def spy(counts):
        rows.append(counts.copy())
        return counts.sum(1)

    bootstrap.resample(spy, 10, 50, generator=np.random.default_rng(0), strata=truths)
    assert (np.concatenate(rows)[:, :3].sum(1) == 3).all()
    rows.clear()
    bootstrap.resample(spy, 6, 50, generator=np.random.default_rng(0), clusters=[7, 7, 7, 2, 2, 5])
    drawn = np.concatenate(rows)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, [0, 3, 5]].sum(1) == 3).all()


def test_the_mean_interval_covers_with_few_clusters():
    generator, hits = np.random.default_rng(5), 0
    clusters = np.repeat(np.arange(8), 5)
    for _ in range(100):
        units = np.repeat(generator.normal(size=8), 5) + 0.3 * generator.normal(size=40)
        low, high = bootstrap.bootstrap_mean(units, generator=generator, clusters=clusters, replicates=300)
        hits += low <= 0 <= high
    assert hits >= 88


def test_ignoring_clusters_would_not_cover():
    generator, hits = np.random.default_rng(5), 0
    for _ in range(100):
        units = np.repeat(generator.normal(size=8), 5) + 0.3 * generator.normal(size=40)
        low, high = bootstrap.bootstrap_mean(units, generator=generator, replicates=300)
        hits += low <= 0 <= high
    assert hits <= 75


def test_equal_generators_give_equal_intervals():
    units = np.random.default_rng(6).random(30)
    one, two = (bootstrap.bootstrap_mean(units, generator=np.random.default_rng(7)) for _ in range(2))
    assert one == two


def test_an_undefined_bootstrap_is_refused():
    with pytest.raises(ValueError, match="no bootstrap replicate"):
        bootstrap.percentile(np.full(5, np.nan))
