"""Who masks against whom: symmetric, of the right degree, random, and how likely it gives way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.defenses.secure_aggregation.graph import most_colluders, neighbours_of, risk, threshold_of


@given(
    people=st.sets(st.integers(0, 10**6), min_size=2, max_size=40),
    half=st.integers(1, 20) | st.none(),
    seed=st.binary(min_size=16, max_size=24),
)
def test_neighbourhood_is_mutual(people: set[int], half: int | None, seed: bytes) -> None:
    degree = None if half is None else 2 * half
    near = {i: neighbours_of(i, sorted(people), degree=degree, seed=seed) for i in people}
    size = len(people) - 1 if degree is None else min(degree, len(people) - 1)
    assert all(len(set(found)) == size and i not in found for i, found in near.items())
    assert all(i in near[j] for i, found in near.items() for j in found)


def test_another_seed_gives_another_graph() -> None:
    people = list(range(30))
    first, second = (neighbours_of(0, people, degree=4, seed=seed) for seed in (b"1" * 16, b"2" * 16))
    assert first != second
    assert neighbours_of(0, people[::-1], degree=4, seed=b"1" * 16) == first


@given(degree=st.integers(1, 2000), active=st.booleans())
def test_thresholds(degree: int, active: bool) -> None:
    threshold = threshold_of(degree, active_server=active)
    assert 1 <= threshold <= degree
    if degree > 1:
        assert 2 * threshold > degree
    if active and degree > 1:
        assert 3 * threshold > 2 * degree
        # two stories need 2 t shares of k, and each honest neighbour tells one
        tolerated = most_colluders(degree, threshold)
        assert tolerated >= degree // 3 or tolerated == threshold - 1
        assert 2 * threshold > degree + tolerated


def test_risk_against_simulation() -> None:
    n, degree, threshold, colluding = 60, 6, 5, 0.4
    unmasked, lost = risk(n, degree=degree, threshold=threshold, colluding=colluding, dropouts=0.2)
    random, hits, gone = np.random.default_rng(0), 0, 0
    runs = 3000
    for _ in range(runs):
        order = random.permutation(n)
        corrupt = order[: int(colluding * (n - 1))]
        # neighbours of the first client: a random set of others
        near = random.permutation(np.arange(1, n))[:degree]
        hits += np.isin(near, corrupt).sum() >= threshold
        absent = random.permutation(n)[: int(0.2 * (n - 1))]
        gone += np.isin(near, absent).sum() > degree - threshold
    assert n * hits / runs == pytest.approx(min(unmasked, n), rel=0.35) or unmasked == 1.0
    assert lost == pytest.approx(min(1.0, n * gone / runs), rel=0.25)


def test_more_neighbours_less_risk() -> None:
    """Bell et al.: some tens of neighbours do for hundreds of clients."""
    risks = [
        risk(500, degree=k, threshold=threshold_of(k, active_server=False), colluding=0.2, dropouts=0.1)[0]
        for k in (8, 20, 40, 80)
    ]
    assert risks == sorted(risks, reverse=True)
    assert risks[0] > 1e-2
    assert risks[-1] < 1e-8
