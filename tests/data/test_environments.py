import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.environments import ConceptShift, FeatureSkew, label_cycle, rotate, swap_labels
from fedsec.data.examples import Examples
from fedsec.errors import ConfigurationError


def images(n=6):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Examples(x, torch.arange(n) % 3, {"ink": torch.arange(n) % 2})


def seen(partition, client, clients, shard):
    return partition.transform(client, clients, shard, generator=torch.Generator().manual_seed(client))


def test_quarter_turns_are_exact():
    x = images().x
    assert torch.allclose(rotate(x, 90.0), torch.rot90(x, 1, (2, 3)), atol=1e-5)
    assert torch.allclose(rotate(x, 180.0), torch.rot90(x, 2, (2, 3)), atol=1e-5)
    assert torch.allclose(rotate(x, 0.0), x, atol=1e-6)


def test_a_turn_keeps_angles_in_images_that_are_not_square():
    x = torch.zeros(1, 1, 9, 21)
    x[..., 4, 10] = 1.0
    x[..., 4, 13] = 1.0  # three to the right of the centre
    turned = rotate(x, 90.0)
    assert float(turned[..., 1, 10]) == pytest.approx(1.0, abs=1e-4)  # three above it


def test_noise_grows_over_the_clients_as_its_level_says():
    shard = Examples(torch.zeros(1, 1, 200, 200), torch.tensor([0]))
    partition = FeatureSkew(noise=0.5, low=-100.0, high=100.0)
    deviations = [float(seen(partition, client, 5, shard).x.std()) for client in range(5)]
    assert deviations == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], rel=0.03)


def test_brightness_and_contrast_are_as_documented():
    shard = Examples(torch.tensor([[0.25, 0.5, 0.75]]), torch.tensor([0]))
    partition = FeatureSkew(noise=0.0, contrast=-0.5, brightness=0.2)
    assert seen(partition, 1, 2, shard).x.flatten().tolist() == pytest.approx([0.575, 0.7, 0.825])
    assert seen(partition, 0, 2, shard).x.flatten().tolist() == pytest.approx([0.4125, 0.6, 0.7875])


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 2), st.floats(-180, 180), st.floats(-1, 1), st.floats(-1, 3), st.integers(0, 3))
def test_feature_skew_stays_in_bounds_and_is_deterministic(noise, rotation, brightness, contrast, client):
    partition = FeatureSkew(noise=noise, rotation=rotation, brightness=brightness, contrast=contrast)
    shard = images()
    first, second = seen(partition, client, 4, shard), seen(partition, client, 4, shard)
    assert torch.equal(first.x, second.x)
    assert float(first.x.min()) >= 0.0
    assert float(first.x.max()) <= 1.0
    assert torch.equal(first.y, shard.y)
    assert first.attributes is shard.attributes
    assert torch.equal(shard.x, images().x)


@pytest.mark.parametrize(
    ("partition", "pool", "word"),
    [
        (FeatureSkew(), Examples(torch.zeros(5, 3, dtype=torch.int64), torch.zeros(5)), "token"),
        (FeatureSkew(rotation=10.0), Examples(torch.zeros(5, 3), torch.zeros(5)), "rotated"),
        (FeatureSkew(), Examples(torch.zeros(5, 3) - 1, torch.zeros(5)), "cut off"),
        (ConceptShift(second=9), images(), "run from 0 to 2"),
        (ConceptShift(first=1), images(), "two different"),
        (ConceptShift(mode="permute", classes=2), images(), "Use 3"),
    ],
)
def test_what_cannot_be_done_is_refused(partition, pool, word):
    with pytest.raises(ConfigurationError, match=word):
        partition.assign(pool, 2, generator=np.random.default_rng(0))


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 1), st.integers(1, 60))
def test_a_share_of_the_clients_is_shifted(share, clients):
    shard = Examples(torch.zeros(2, 1), torch.tensor([0, 1]))
    partition = ConceptShift(share=share)
    shifted = sum(not torch.equal(seen(partition, c, clients, shard).y, shard.y) for c in range(clients))
    assert shifted == int(np.floor(share * clients + 1e-9))


def test_swapping_twice_changes_nothing():
    y = torch.tensor([0, 1, 2, 1])
    assert swap_labels(y, 1, 2).tolist() == [0, 2, 1, 2]
    assert torch.equal(swap_labels(swap_labels(y, 1, 2), 1, 2), y)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 30), st.integers(0, 9))
def test_a_concept_permutes_without_a_fixed_point(classes, concept):
    image = label_cycle(classes, concept)
    assert sorted(image.tolist()) == list(range(classes))
    assert not bool((image == torch.arange(classes)).any())


def test_shifted_clients_take_the_concepts_in_turn():
    shard = Examples(torch.zeros(10, 1), torch.arange(10))
    partition = ConceptShift(share=1.0, mode="permute", concepts=2)
    labels = [seen(partition, c, 4, shard).y.tolist() for c in range(4)]
    assert labels[0] == labels[2] != labels[1] == labels[3]
