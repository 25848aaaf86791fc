"""2-means on a line against scikit-learn and all cuts, and the gap statistic on numbers with and without groups."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fedsec.defenses.detection import has_two_groups, upper_group
from fedsec.randomness import generator


def normal(n, seed=0):
    return torch.randn(n, generator=generator(seed, "groups"), dtype=torch.float64)


def inertia(values, upper):
    return sum(float((part - part.mean()).square().sum()) for part in (values[upper], values[~upper]))


@given(values=st.lists(st.integers(-50, 50), min_size=3, max_size=15, unique=True))
@settings(deadline=None, max_examples=40)
def test_no_cut_is_better_and_neither_is_scikit_learn(values):
    numbers = torch.tensor(values, dtype=torch.float64)
    found = upper_group(numbers)
    assert float(numbers[found].min()) > float(numbers[~found].max())
    best = min(inertia(numbers, numbers > cut) for cut in sorted(values)[:-1])
    assert inertia(numbers, found) == pytest.approx(best, rel=1e-9, abs=1e-9)
    means = KMeans(n_clusters=2, n_init=3, random_state=0).fit(np.array(values, dtype=np.float64)[:, None])
    assert inertia(numbers, found) <= means.inertia_ * (1 + 1e-9) + 1e-9


def test_known_groups():
    assert upper_group(torch.tensor([5.0, 1.0, 1.1, 5.2, 0.9])).tolist() == [True, False, False, True, False]
    with pytest.raises(ValueError, match="n >= 2"):
        upper_group(torch.ones(1))


def slow_gap(values, *, references, random):
    """Gap of one and two groups, and the spread of the second, by scikit-learn and the same uniform samples."""
    unit = (values - values.min()) / (values.max() - values.min())
    samples = torch.rand(references, len(values), generator=random, dtype=torch.float64).numpy()
    gaps = []
    for k in (1, 2):
        logs = [math.log(KMeans(n_clusters=k, n_init=10, random_state=0).fit(s[:, None]).inertia_) for s in samples]
        own = math.log(KMeans(n_clusters=k, n_init=10, random_state=0).fit(unit.numpy()[:, None]).inertia_)
        gaps.append(np.mean(logs) - own)
        spread = np.std(logs) * math.sqrt(1 + 1 / references)
    return gaps[0] < gaps[1] - spread


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_gap_statistic_by_scikit_learn(seed):
    values = torch.cat([normal(10, seed), seed / 2 + normal(4, seed + 100)])
    expected = slow_gap(values, references=20, random=generator(seed))
    assert has_two_groups(values, generator=generator(seed)) == expected


def test_finds_groups_and_seldom_sees_some_where_there_are_none():
    apart = sum(
        has_two_groups(torch.cat([normal(14, s), 6 + normal(6, s + 99)]), generator=generator(s)) for s in range(50)
    )
    none = sum(has_two_groups(normal(20, s), generator=generator(s)) for s in range(50))
    assert apart >= 48
    assert none <= 3


def test_equal_numbers_and_very_few_are_one_group():
    assert not has_two_groups(torch.full((9,), 3.0), generator=generator(0))
    assert not has_two_groups(torch.tensor([0.0, 9.0]), generator=generator(0))
