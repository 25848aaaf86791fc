import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.examples import Examples
from fedsec.data.partitions import (
    AttributeSkew,
    ConceptShift,
    Dirichlet,
    FeatureSkew,
    Natural,
    QuantitySkew,
    Shards,
    Shuffle,
    WithReplacement,
)
from fedsec.data.source import ClientIndex
from fedsec.errors import ConfigurationError

EXACT = [
    Shuffle(),
    Dirichlet(alpha=0.1),
    Dirichlet(alpha=100.0, minimum=2),
    Shards(),
    QuantitySkew(),
    QuantitySkew(law="power-law", skew=2.0, minimum=2),
    FeatureSkew(),
    ConceptShift(),
]


def pool_of(rows, *, classes=4, seed=0, share=0.5):
    draw = np.random.default_rng(seed)
    y = torch.from_numpy(draw.permutation(np.arange(rows) % classes))
    attribute = torch.from_numpy(draw.permutation((np.arange(rows) < share * rows).astype(np.int64)))
    return Examples(torch.rand(rows, 3, generator=torch.Generator().manual_seed(seed)), y, {"sex": attribute})


def check_form(index, clients, rows):
    """What must hold of every partition."""
    assert isinstance(index, ClientIndex)
    assert index.order.dtype == np.int64
    assert index.offsets.dtype == np.int64
    assert index.offsets.shape == (clients + 1,)
    assert index.offsets[0] == 0
    assert index.offsets[-1] == len(index.order)
    assert (np.diff(index.offsets) >= 0).all()
    assert len(index.order) == 0 or (index.order.min() >= 0 and index.order.max() < rows)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(EXACT), st.integers(1, 20), st.integers(40, 120), st.integers(0, 2**32))
def test_exact_partitions_lose_and_double_nothing(partition, clients, rows, seed):
    index = partition.assign(pool_of(rows), clients, generator=np.random.default_rng(seed))
    check_form(index, clients, rows)
    assert sorted(index.order) == list(range(rows))
    assert index.sizes().min() >= getattr(partition, "minimum", 1)
    again = partition.assign(pool_of(rows), clients, generator=np.random.default_rng(seed))
    assert np.array_equal(index.order, again.order)
    assert np.array_equal(index.offsets, again.offsets)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.integers(50, 200))
def test_shuffled_shares_differ_by_at_most_one(clients, rows):
    sizes = Shuffle().assign(pool_of(rows), clients, generator=np.random.default_rng(0)).sizes()
    assert sizes.max() - sizes.min() <= 1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 50))
def test_drawing_with_replacement_serves_any_population(clients, size, rows):
    index = WithReplacement(size=size).assign(pool_of(rows), clients, generator=np.random.default_rng(0))
    check_form(index, clients, rows)
    assert set(index.sizes()) == {size}


@pytest.mark.parametrize("partition", [*EXACT, AttributeSkew()])
def test_more_clients_than_examples_are_refused(partition):
    with pytest.raises(ConfigurationError, match="51 clients"):
        partition.assign(pool_of(50), 51, generator=np.random.default_rng(0))


def test_a_minimum_that_cannot_be_met_is_refused():
    with pytest.raises(ConfigurationError, match="10 clients need 60") as caught:
        Dirichlet(minimum=6).assign(pool_of(50), 10, generator=np.random.default_rng(0))
    assert caught.value.problems[0].path == "partition.minimum"


def test_a_million_clients_are_two_arrays():
    clients = 1_000_000
    index = WithReplacement(size=20).assign(pool_of(1000), clients, generator=np.random.default_rng(0))
    assert vars(index).keys() == {"order", "offsets"}
    assert type(index.order) is np.ndarray
    assert type(index.offsets) is np.ndarray
    assert index.order.shape == (20 * clients,)
    check_form(index, clients, 1000)


@pytest.mark.parametrize(
    "partition", [Shuffle(), Dirichlet(), Shards(shards_per_client=1), QuantitySkew(), AttributeSkew(sizes="lognormal")]
)
def test_a_client_per_row_or_two_is_still_two_arrays(partition):
    index = partition.assign(pool_of(100_000), 40_000, generator=np.random.default_rng(0))
    check_form(index, 40_000, 100_000)
    assert type(index.order) is np.ndarray
    assert index.order.dtype == np.int64


def label_distance(partition, clients=10):
    """Mean total variation distance of a client's labels to the pool's."""
    pool = pool_of(2000)
    index = partition.assign(pool, clients, generator=np.random.default_rng(3))
    y = pool.y.numpy()
    overall = np.bincount(y, minlength=4) / len(y)
    rows = [np.bincount(y[index.rows(c)], minlength=4) / len(index.rows(c)) for c in range(clients)]
    return float(np.mean([np.abs(row - overall).sum() / 2 for row in rows]))


def test_label_skew_grows_as_alpha_falls():
    near, middle, far = (label_distance(Dirichlet(alpha=alpha)) for alpha in (1000.0, 1.0, 0.05))
    assert near < 0.05 < middle < far
    assert label_distance(Shuffle()) < 0.1


def test_each_class_is_divided_in_dirichlet_proportions():
    # a share of Dirichlet(alpha) over n clients is Beta(alpha, (n - 1) alpha): variance (n-1) / (n^2 (n alpha + 1))
    pool, clients, alpha = pool_of(4000, classes=1), 5, 0.7
    draw = np.random.default_rng(5)
    shares = np.array([Dirichlet(alpha=alpha).assign(pool, clients, generator=draw).sizes() for _ in range(300)]) / 4000
    assert shares.mean(axis=0) == pytest.approx([1 / clients] * clients, abs=0.05)
    assert shares.var() == pytest.approx((clients - 1) / (clients**2 * (clients * alpha + 1)), rel=0.1)


def test_shards_hold_few_classes():
    pool = pool_of(400, classes=10)
    index = Shards(shards_per_client=2).assign(pool, 20, generator=np.random.default_rng(0))
    y = pool.y.numpy()
    assert max(len(set(y[index.rows(c)])) for c in range(20)) <= 2
    assert set(index.sizes()) == {20}


def test_quantity_skew_follows_its_law():
    pool, draw = pool_of(50_000), np.random.default_rng(0)
    sizes = QuantitySkew(law="power-law", skew=1.0).assign(pool, 100, generator=draw).sizes()
    expected = 1 / np.arange(1, 101)
    assert np.sort(sizes)[::-1] == pytest.approx(1 + 49_900 * expected / expected.sum(), abs=1.0)
    sizes = QuantitySkew(skew=0.5).assign(pool, 1000, generator=draw).sizes()
    assert np.log(sizes - 1).std() == pytest.approx(0.5, abs=0.05)
    assert set(QuantitySkew(skew=0.0).assign(pool, 100, generator=draw).sizes()) == {500}


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0.5, 1.0),
    st.floats(0.2, 0.8),
    st.floats(0.0, 1.0),
    st.sampled_from(["equal", "lognormal"]),
    st.integers(2, 30),
    st.integers(0, 2**32),
)
def test_attribute_skew_gives_every_client_its_mixture(purity, share, majority, sizes, clients, seed):
    pool = pool_of(400, share=share)
    partition = AttributeSkew(purity=purity, majority=majority, sizes=sizes)
    index = partition.assign(pool, clients, generator=np.random.default_rng(seed))
    check_form(index, clients, 400)
    assert len(set(index.order)) == len(index.order)
    assert index.sizes().min() >= 1
    value = pool.attributes["sex"].numpy()
    ones = np.array([value[index.rows(c)].sum() for c in range(clients)])
    high, low = purity * index.sizes(), (1 - purity) * index.sizes()
    is_major = np.abs(ones - high) < 1 + 1e-6
    is_minor = np.abs(ones - low) < 1 + 1e-6
    assert (is_major | is_minor).all()
    count = round(majority * clients)
    assert is_major.sum() >= count
    assert is_minor.sum() >= clients - count


def test_attribute_skew_uses_all_of_the_scarcer_group():
    pool = pool_of(1000, share=0.2)
    index = AttributeSkew(purity=0.9).assign(pool, 10, generator=np.random.default_rng(0))
    used = pool.attributes["sex"].numpy()[index.order]
    assert used.sum() >= 195
    assert len(used) == pytest.approx(400, abs=10)


def test_attribute_skew_with_lognormal_sizes_has_tiny_clients():
    pool = pool_of(1000)
    sizes = AttributeSkew(sizes="lognormal", sigma=1.5).assign(pool, 50, generator=np.random.default_rng(0)).sizes()
    assert sizes.min() <= 2
    assert sizes.max() >= 80


def test_attribute_skew_on_digits_leaves_the_labels_alone():
    from fedsec.data.embedded import Digits

    pool = Digits().load().train
    index = AttributeSkew(attribute="ink", purity=1.0).assign(pool, 2, generator=np.random.default_rng(0))
    shares = [np.bincount(pool.y.numpy()[index.rows(c)], minlength=10) / len(index.rows(c)) for c in range(2)]
    assert np.abs(shares[0] - shares[1]).sum() / 2 < 0.03


def test_what_attribute_skew_cannot_serve_is_refused():
    draw = np.random.default_rng(0)
    with pytest.raises(ConfigurationError, match="the dataset has the attributes sex"):
        AttributeSkew(attribute="race").assign(pool_of(100), 5, generator=draw)
    with pytest.raises(ConfigurationError, match="no attributes"):
        AttributeSkew().assign(Examples(torch.zeros(9, 1), torch.zeros(9)), 5, generator=draw)
    with pytest.raises(ConfigurationError, match="10 examples with the attribute"):
        AttributeSkew(purity=1.0, majority=1.0).assign(pool_of(100, share=0.1), 20, generator=draw)


def test_natural_clients_are_whole_values():
    value = torch.tensor([3, 0, 3, -1, 7, 7, 7, 0, 3])
    pool = Examples(torch.zeros(9, 1), torch.zeros(9, dtype=torch.int64), {"speaker": value})
    index = Natural().assign(pool, 3, generator=np.random.default_rng(0))
    groups = {frozenset(index.rows(c).tolist()) for c in range(3)}
    assert groups == {frozenset({1, 7}), frozenset({0, 2, 8}), frozenset({4, 5, 6})}
    two = Natural(attribute="speaker", minimum=3).assign(pool, 2, generator=np.random.default_rng(0))
    assert set(two.sizes()) == {3}
    with pytest.raises(ConfigurationError, match="2 values of the attribute have at least 3"):
        Natural(minimum=3).assign(pool, 3, generator=np.random.default_rng(0))


def test_partitions_by_label_refuse_a_regression():
    pool = Examples(torch.zeros(9, 1), torch.zeros(9))
    for partition in (Dirichlet(), Shards(), ConceptShift()):
        with pytest.raises(ConfigurationError, match="class"):
            partition.assign(pool, 2, generator=np.random.default_rng(0))
