"""One class per client."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.by_class import ByClass
from fedsec.data.examples import Examples
from fedsec.errors import ConfigurationError


def pool(labels):
    y = torch.as_tensor(labels)
    return Examples(torch.zeros(len(y), 2), y)


@given(clients=st.integers(1, 25), seed=st.integers(0, 20))
@settings(deadline=None, max_examples=40)
def test_every_client_holds_its_class_and_no_example_twice(clients, seed):
    labels = np.random.default_rng(seed).integers(0, 5, size=200)
    index = ByClass().assign(pool(labels), clients, generator=np.random.default_rng(seed))
    assert len(index) == clients
    for client in range(clients):
        assert set(labels[index.rows(client)]) == {client % 5}
    used = labels < clients
    assert sorted(index.order) == sorted(np.flatnonzero(used))
    for label in range(5):
        sizes = index.sizes()[label::5]
        assert len(sizes) == 0 or sizes.max() - sizes.min() <= 1


def test_the_rows_of_a_client_are_shuffled():
    index = ByClass().assign(pool(np.arange(1000) % 2), 2, generator=np.random.default_rng(0))
    assert sorted(index.rows(0)) != list(index.rows(0))


@pytest.mark.parametrize("labels", [[0, 1, 1, 1, 1, 1], [0.5, 1.5]])
def test_what_cannot_be_spread_is_refused(labels):
    with pytest.raises(ConfigurationError):
        ByClass().assign(pool(labels), 5, generator=np.random.default_rng(0))
