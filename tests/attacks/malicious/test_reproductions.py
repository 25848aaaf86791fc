"""The reproduction at a smaller scale."""

import os

import pytest

from fedsec.attacks.malicious.queries import share_alone
from fedsec.attacks.malicious.reproductions import BATCH, cifar, detector
from fedsec.reproductions.catalogue import load
from fedsec.reproductions.run import key

needs_data = pytest.mark.skipif(not os.environ.get("FEDSEC_DATA"), reason="FEDSEC_DATA does not point to the datasets")


def test_published_shares_are_the_closed_form():
    published = {f.read: f.published for f in load("robbing-the-fed").recipe.figures}
    for k in (128, 256, 512):
        expected = share_alone(BATCH, k)
        assert published[f"alone | {k}"] == pytest.approx(expected, abs=6e-4)
        occupied = k * (1 - (1 - 1 / k) ** BATCH)
        assert published[f"mixtures | {k}"] == pytest.approx(1 - BATCH * expected / occupied, abs=6e-4)


@pytest.mark.data
@needs_data
def test_the_detector_at_a_smaller_scale():
    found = detector(rounds=2, clients=2, batch=32, width=64)
    assert all(found[f"auc | {name}"][0] >= 0.95 for name in ("robbing-the-fed", "trap-weights", "class-fishing"))


@pytest.mark.slow
@pytest.mark.data
@needs_data
def test_every_figure_has_a_measured_value_in_its_band():
    found = {key(name): value for name, value in cifar(seeds=1).items()}
    for figure in load("robbing-the-fed").recipe.figures:
        assert figure.low <= found[key(figure.read)][0] <= figure.high, figure.name


@pytest.mark.data
@needs_data
def test_a_batch_of_cifar_is_read_as_often_as_its_examples_are_alone():
    from fedsec.attacks.malicious.reproductions import _read_bins

    shares = {"alone": [], "alone at 40 dB": [], "mixtures": [], "psnr": []}
    _read_bins(0, 256, 10, shares)
    mean = {name: sum(values) / len(values) for name, values in shares.items()}
    assert mean["alone"] == pytest.approx(share_alone(BATCH, 256), abs=0.05)
    assert mean["alone at 40 dB"] > 0.97
    assert mean["psnr"] >= 40
