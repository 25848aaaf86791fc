"""The real files: counts that their publishers state."""

import dataclasses
import os

import pytest
import torch

from fedsec.data import cache
from fedsec.data.holdings import HOLDINGS
from fedsec.data.images import CIFAR10, MNIST, FashionMNIST, ORLFaces
from fedsec.data.tabular import Adult, BankMarketing, CreditDefault, GermanCredit
from fedsec.data.text import SST2, AGNews, CoLA, TinyShakespeare
from fedsec.errors import DataError

pytestmark = pytest.mark.data


def load(source):
    if not os.environ.get("FEDSEC_DATA"):
        pytest.skip("FEDSEC_DATA is not set")
    try:
        return source.load()
    except DataError as error:
        if "not found" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize(
    ("source", "train", "test"),
    [
        (MNIST(), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 10_000),
        (FashionMNIST(), [6000] * 10, 10_000),
        (CIFAR10(variant="jpeg"), [1000] * 10, 2000),
        (CIFAR10(), [317, 293, 336, 308, 338, 314, 331, 308, 326, 329], 800),
        (ORLFaces(), [8] * 40, 80),
        (Adult(), [24_720, 7841], 16_281),
        (CreditDefault(), [18_691, 5309], 6000),
        (BankMarketing(), [2956, 363], 800),
        (GermanCredit(), [560, 240], 200),
        (SST2(), [29_780, 37_569], 872),
        (CoLA(), [2528, 6023], 1043),
        (AGNews(), [2509, 2458, 2496, 2538], 7600),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else None,
)
def test_classes_have_their_published_sizes(source, train, test):
    data = load(source)
    assert torch.bincount(data.train.y).tolist() == pytest.approx(train, abs=1)
    assert len(data.test) == test
    known = {attribute.name: len(attribute.values) for attribute in data.info.attributes}
    assert set(data.train.attributes) == set(known)
    assert all(int(value.max()) < known[name] for name, value in data.train.attributes.items())
    # with its default parameters a source says before loading what it is, but for what the files tell
    assert dataclasses.replace(data.info, words=(), features=()) == source.info
    assert len(data.info.words) in (0, data.info.vocabulary)
    assert bool(data.info.words) == (data.info.modality == "text")


def test_shakespeare_has_its_characters_and_speakers():
    data = load(TinyShakespeare())
    assert data.info.vocabulary == 67
    assert not bool((data.train.x <= 1).any())
    assert "GLOUCESTER" in data.info.attributes[0].values
    assert len(data.train) + len(data.test) > 12_000


@pytest.mark.parametrize("name", sorted(HOLDINGS))
def test_files_are_those_that_the_loaders_were_written_for(name):
    import hashlib

    if not os.environ.get("FEDSEC_DATA") or cache.status(name) != "present":
        pytest.skip(f"the files of {name} are not under FEDSEC_DATA")
    folder = cache.locate(name)
    for file in HOLDINGS[name].files:
        assert hashlib.sha256((folder / file.name).read_bytes()).hexdigest() == file.sha256
