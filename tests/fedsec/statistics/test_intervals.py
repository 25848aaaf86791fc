import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsec.statistics.intervals import (
    auc,
    auc_interval,
    auc_variance,
    clopper_pearson,
    roc,
    steps,
    tpr_at_fpr,
    wilson,
)


def slow_auc(scores, truths):
    up = [s for s, t in zip(scores, truths, strict=True) if t]
    down = [s for s, t in zip(scores, truths, strict=True) if not t]
    return sum((a > b) + 0.5 * (a == b) for a in up for b in down) / (len(up) * len(down))


def slow_tpr(scores, truths, fpr):
    best = 0.0
    for threshold in [np.inf, *scores]:
        claimed = [s >= threshold for s in scores]
        false = sum(c and not t for c, t in zip(claimed, truths, strict=True)) / (len(truths) - sum(truths))
        if false <= fpr:
            best = max(best, sum(c and t for c, t in zip(claimed, truths, strict=True)) / sum(truths))
    return best


scored = st.lists(st.tuples(st.integers(-4, 4).map(float), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(t for _, t in rows) < len(rows)
)


def test_clopper_pearson_known_answers():
    assert clopper_pearson(0, 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert clopper_pearson(20, 20) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert clopper_pearson(8, 20) == pytest.approx((0.1911901, 0.6394574), abs=1e-6)
    for k in range(13):
        exact = stats.binomtest(k, 12).proportion_ci(method="exact")
        assert clopper_pearson(k, 12) == pytest.approx((exact.low, exact.high))


def test_wilson_known_answers():
    for k in range(21):
        exact = stats.binomtest(k, 20).proportion_ci(method="wilson")
        assert wilson(k, 20) == pytest.approx((exact.low, exact.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match="0 <= k <= n"):
        clopper_pearson(k, n)
    with pytest.raises(ValueError, match="0 <= k <= n"):
        wilson(k, n)


@settings(deadline=None, max_examples=60)
@given(scored)
def test_auc_and_tpr_equal_their_definitions(rows):
    scores, truths = zip(*rows, strict=True)
    assert auc(scores, truths) == pytest.approx(slow_auc(scores, truths))
    for fpr in (0.0, 0.1, 0.5):
        assert tpr_at_fpr(scores, truths, fpr)[0] == pytest.approx(slow_tpr(scores, truths, fpr))
    false, true = steps(scores, truths)
    assert np.trapezoid(true, false) == pytest.approx(slow_auc(scores, truths))


def test_gaussian_auc():
    generator = np.random.default_rng(1)
    scores = np.concatenate([generator.normal(1, 1, 40_000), generator.normal(0, 1, 40_000)])
    truths = np.arange(80_000) < 40_000
    area, (low, high) = auc(scores, truths), auc_interval(scores, truths)
    assert stats.norm.cdf(1 / np.sqrt(2)) == pytest.approx(0.7602, abs=1e-4)
    assert area == pytest.approx(0.7602, abs=0.006)
    assert low < 0.7602 < high
    assert high - low < 0.01


def test_delong_variance_of_a_small_table_by_hand():
    # positives 3, 1 against negatives 2, 0: placements 1, 1/2 and 1/2, 1 around 3/4
    assert auc_variance([3, 1, 2, 0], [1, 1, 0, 0]) == pytest.approx(0.125 / 2 + 0.125 / 2)


def test_singleton_clusters_are_no_clusters_and_doubled_units_add_nothing():
    generator = np.random.default_rng(2)
    truths = np.arange(60) % 2 == 0
    scores = generator.normal(size=60) + truths
    assert auc_variance(scores, truths, np.arange(60)) == pytest.approx(auc_variance(scores, truths))
    twice = np.tile(np.arange(60), 2)
    doubled = auc_variance(np.tile(scores, 2), np.tile(truths, 2), twice)
    assert doubled == pytest.approx(auc_variance(scores, truths))


def test_auc_interval_is_not_empty_at_the_edges():
    low, high = auc_interval([4, 3, 2, 1], [1, 1, 0, 0])
    assert high == 1.0
    assert 0 < low < 0.8
    low, high = auc_interval([1, 2, 3, 4], [1, 1, 0, 0])
    assert low == 0.0
    assert 0.2 < high < 1
    low, high = auc_interval([1, 1, 1, 1], [1, 1, 0, 0])
    assert low < 0.5 < high


@pytest.mark.parametrize(("shift", "size"), [(0.0, 15), (1.0, 15), (2.5, 25)])
def test_auc_interval_covers(shift, size):
    generator, truth = np.random.default_rng(3), stats.norm.cdf(shift / np.sqrt(2))
    truths = np.arange(2 * size) < size
    hits = 0
    for _ in range(200):
        low, high = auc_interval(generator.normal(size=2 * size) + shift * truths, truths)
        hits += low <= truth <= high
    assert hits >= 184


def test_tpr_says_what_it_can_resolve():
    scores = np.concatenate([np.linspace(0, 1, 200), np.linspace(0, 0.5, 200)])
    truths = np.arange(400) < 200
    rate, (low, high), smallest = tpr_at_fpr(scores, truths, 0.001)
    assert smallest == 1 / 200
    assert rate == tpr_at_fpr(scores, truths, 0.0)[0]
    assert low < rate < high
    assert tpr_at_fpr([0, 0, 0], [1, 0, 0], 0.5)[0] == 0


def test_roc_is_thinned_to_true_thresholds_between_its_ends():
    generator = np.random.default_rng(4)
    truths = generator.random(5000) < 0.5
    scores = generator.normal(size=5000) + truths
    false, true = roc(scores, truths)
    whole = set(zip(*steps(scores, truths), strict=True))
    assert len(false) <= 200
    assert set(zip(false, true, strict=True)) <= whole
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()


@pytest.mark.parametrize(("scores", "truths"), [([1.0, 2.0], [1, 1]), ([np.nan, 1.0], [0, 1]), ([1.0], [0, 1])])
def test_what_has_no_roc_is_refused(scores, truths):
    with pytest.raises(ValueError, match=r"classes|not a number|one length"):
        auc(scores, truths)
