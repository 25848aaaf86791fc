"""`fedsec.measure.roc` against closed forms and against counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsec.measure import roc

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("sigma", "area", "rate"), [(1.0, 0.7602, 0.0183), (0.541, 0.904, 0.107), (4.22, 0.5665, 0.0022)]
)
def test_the_gaussian_mechanism(sigma, area, rate):
    quantiles = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    found = roc(quantiles + 1 / sigma, quantiles)
    assert found.auc == pytest.approx(area, abs=5e-4)
    assert found.tpr_at(0.001) == pytest.approx(rate, rel=0.02, abs=1e-4)
    assert found.tpr_at(0.001) == pytest.approx(stats.norm.sf(stats.norm.isf(0.001) - 1 / sigma), rel=0.01)
    low, high = found.interval_at(0.001)
    assert low < rate < high
    assert found.resolution == 1e-5


@given(members=SCORES, others=SCORES, fpr=st.sampled_from([0.0, 0.001, 0.1, 0.25, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_against_counting(members, others, fpr):
    found = roc(members, others)
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert found.auc == pytest.approx(np.mean(pairs))
    thresholds = [np.inf, *sorted({*members, *others}, reverse=True)]
    allowed = [t for t in thresholds if np.mean(np.array(others) >= t) <= fpr]
    expected = np.mean(np.array(members) >= allowed[-1])
    assert found.tpr_at(fpr) == pytest.approx(expected)
    hits = round(expected * len(members))
    exact = stats.binomtest(hits, len(members)).proportion_ci(method="exact")
    assert found.interval_at(fpr) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_tensors_lists_and_intervals():
    found = roc(torch.tensor([2.0, 3.0]), [0.0, 1.0])
    assert (found.auc, found.tpr_at(0.0)) == (1.0, 1.0)
    assert found.auc_interval()[0] < 1.0
    assert found.interval_at(0.0, confidence=0.5)[0] > found.interval_at(0.0)[0]
    assert found.points[0][0] == found.points[1][0] == 0.0


def test_what_it_refuses():
    with pytest.raises(ValueError, match="at least one member"):
        roc([], [1.0])
    with pytest.raises(ValueError, match="not a number"):
        roc([1.0], [np.nan])
    with pytest.raises(ValueError, match="false positive rate lies in"):
        roc([1.0], [0.0]).tpr_at(1.5)
