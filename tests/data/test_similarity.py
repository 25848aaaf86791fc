import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.examples import Examples
from fedsec.data.similarity import Similarity
from fedsec.errors import ConfigurationError


def pool_of(rows, *, classes=5, seed=0):
    y = torch.from_numpy(np.random.default_rng(seed).permutation(np.arange(rows) % classes))
    return Examples(torch.zeros(rows, 1), y)


def held(pool, gamma, clients, seed=0):
    index = Similarity(gamma=gamma).assign(pool, clients, generator=np.random.default_rng(seed))
    return [pool.y.numpy()[index.rows(c)] for c in range(clients)]


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.integers(1, 25), st.integers(25, 200), st.integers(0, 2**32))
def test_every_example_has_one_client_and_sizes_are_even(gamma, clients, rows, seed):
    partition = Similarity(gamma=gamma)
    index = partition.assign(pool_of(rows), clients, generator=np.random.default_rng(seed))
    assert sorted(index.order) == list(range(rows))
    assert index.sizes().min() >= 1
    assert np.ptp(index.sizes()) <= 1
    again = partition.assign(pool_of(rows), clients, generator=np.random.default_rng(seed))
    assert np.array_equal(index.order, again.order)


def test_without_a_common_share_each_client_is_a_block_of_the_sorted_labels():
    pool = pool_of(200)
    assert [set(labels) for labels in held(pool, 0.0, 5)] == [{0}, {1}, {2}, {3}, {4}]
    blocks = np.concatenate([np.sort(labels) for labels in held(pool, 0.0, 7)])
    assert (np.diff(blocks) >= 0).all()


def test_a_client_holds_its_block_and_its_part_of_the_common_share():
    # 2000 examples, 5 clients of 400: 100 of the common quarter, 20 of each class, and 300 of the own class
    counts = np.array([np.bincount(labels, minlength=5) for labels in held(pool_of(2000), 0.25, 5)])
    assert (counts.sum(axis=1) == 400).all()
    assert np.diag(counts) == pytest.approx(np.full(5, 320), abs=30)
    assert counts[~np.eye(5, dtype=bool)] == pytest.approx(np.full(20, 20), abs=20)


def test_with_everything_in_common_labels_are_those_of_the_pool():
    counts = np.array([np.bincount(labels, minlength=5) for labels in held(pool_of(5000), 1.0, 5)])
    assert counts == pytest.approx(np.full((5, 5), 200), abs=45)


def test_examples_of_one_label_are_dealt_at_random():
    pool = Examples(torch.zeros(40, 1), torch.zeros(40, dtype=torch.int64))
    draws = [
        Similarity(gamma=0.0).assign(pool, 2, generator=np.random.default_rng(seed)).rows(0).tolist() for seed in (0, 1)
    ]
    assert set(draws[0]) != set(draws[1])
    assert set(draws[0]) != set(range(20))


def test_what_it_cannot_serve_is_refused():
    with pytest.raises(ConfigurationError, match="51 clients"):
        Similarity().assign(pool_of(50), 51, generator=np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="class"):
        Similarity().assign(Examples(torch.zeros(9, 1), torch.zeros(9)), 2, generator=np.random.default_rng(0))
