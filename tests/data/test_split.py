import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.build import build_dataset
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.data.split import split
from fedsec.errors import ConfigurationError


def numbered(train=100, test=30):
    def rows(n):
        return Examples(torch.arange(n).float().unsqueeze(1), torch.zeros(n, dtype=torch.int64))

    info = DatasetInfo(
        name="rows", summary="", task="classification", input_shape=(1,), classes=("a",), bounds=(0.0, 1000.0),
        modality="tabular",
    )  # fmt: skip
    return build_dataset(info, train=rows(train), test=rows(test))


DATA = numbered()


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.none(), st.integers(1, 60)), st.integers(0, 30), st.integers(0, 10), st.integers(1, 30))
def test_parts_are_disjoint_and_of_the_asked_size(train, holdout, auxiliary, test):
    parts = split(
        DATA, train=train, holdout=holdout, auxiliary=auxiliary, test=test, generator=np.random.default_rng(0)
    )
    rows = torch.cat([parts.clients.x, parts.holdout.x, parts.auxiliary.x]).squeeze(1).tolist()
    assert len(set(rows)) == len(rows)
    assert len(parts.clients) == (100 - holdout - auxiliary if train is None else train)
    assert len(parts.holdout) == holdout
    assert len(parts.auxiliary) == auxiliary
    assert parts.test.x.squeeze(1).tolist() == list(range(test))


def test_the_pool_is_shuffled_by_the_generator_alone():
    sizes = {"train": 50, "holdout": 10, "auxiliary": 5, "test": None}
    first = split(DATA, **sizes, generator=np.random.default_rng(1))
    again = split(DATA, **sizes, generator=np.random.default_rng(1))
    other = split(DATA, **sizes, generator=np.random.default_rng(2))
    assert torch.equal(first.clients.x, again.clients.x)
    assert not torch.equal(first.clients.x, other.clients.x)
    assert len(first.test) == 30


def test_a_pool_that_is_too_small_is_refused_with_figures():
    with pytest.raises(ConfigurationError, match="60 train \\+ 40 hold-out \\+ 1 auxiliary = 101") as caught:
        split(DATA, train=60, holdout=40, auxiliary=1, test=None, generator=np.random.default_rng(0))
    assert "Ask for 1 fewer" in str(caught.value)


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigurationError) as caught:
        split(DATA, train=0, holdout=-1, auxiliary=0, test=31, generator=np.random.default_rng(0))
    assert [problem.path for problem in caught.value.problems] == ["data.train", "data.holdout", "data.test"]


def test_nothing_left_for_the_clients_is_refused():
    with pytest.raises(ConfigurationError, match="at least 1 train"):
        split(DATA, train=None, holdout=90, auxiliary=10, test=None, generator=np.random.default_rng(0))
