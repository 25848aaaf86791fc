import numpy as np
import pytest
import torch

from fedsec.data.attribute_mix import AttributeMix
from fedsec.data.examples import Examples
from fedsec.errors import ConfigurationError


def pool(n=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=generator) < 0.25).long()
    # the property goes with the label, as sex goes with income
    sex = (torch.rand(n, generator=generator) < torch.where(y == 1, 0.85, 0.6)).long()
    race = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), n, replacement=True, generator=generator)
    sex[:50] = -1
    return Examples(torch.zeros(n, 1), y, {"sex": sex, "race": race})


POOL = pool()


def shares(partition, clients=10, seed=0):
    index = partition.assign(POOL, clients, generator=np.random.default_rng(seed))
    held = [POOL.take(torch.from_numpy(index.rows(client).copy())) for client in range(clients)]
    return index, torch.tensor(
        [
            [float((h.attributes["sex"] == 1).double().mean()), float((h.attributes["race"] == 1).double().mean())]
            for h in held
        ]
    ), torch.tensor([float(h.y.double().mean()) for h in held])  # fmt: skip


def test_clients_differ_in_the_properties_and_not_in_the_labels():
    index, share, label = shares(AttributeMix(properties=("sex", "race=1"), size=60))
    assert (index.sizes() == 60).all()
    assert len(np.unique(index.order)) == 600
    assert ((share - 0.5).abs() > 0.3).all()
    assert (share > 0.5).sum(0).tolist() == [5, 5]
    assert label.max() - label.min() < 0.06


def test_labels_follow_the_property_if_asked():
    _, share, label = shares(AttributeMix(properties=("sex",), size=100, match_labels=False))
    assert label[share[:, 0] > 0.5].mean() > label[share[:, 0] < 0.5].mean() + 0.08


def test_unknown_values_have_no_client():
    index, _, _ = shares(AttributeMix(properties=("sex",), size=50))
    assert (POOL.attributes["sex"][torch.from_numpy(index.order)] >= 0).all()


def test_one_seed_gives_one_partition():
    one, two = (shares(AttributeMix(properties=("sex",)))[0] for _ in range(2))
    assert np.array_equal(one.order, two.order)


@pytest.mark.parametrize(
    ("properties", "size", "said"),
    [
        (("height",), 10, "no attribute 'height'"),
        (("race",), 10, "choose which value"),
        (("race=2",), 300, "are needed and there are"),
        (("sex", "sex=0"), 10, "go together"),
    ],
)
def test_what_cannot_be_done_is_refused(properties, size, said):
    with pytest.raises(ConfigurationError, match=said):
        shares(AttributeMix(properties=properties, size=size))
