"""The adaptive curve on a smaller federation that the package carries."""

import pytest

from fedsec.attacks.sybil import reproductions
from fedsec.reproductions.catalogue import load

SMALL = {
    "dataset": {"name": "digits", "train": 1000, "auxiliary": 250},
    "rounds": 60,
    "evaluate_every": 60,
    "local": {"batch_size": 10, "max_steps": 1, "learning_rate": 0.02},
}


def test_every_threshold_of_the_file_is_measured():
    file = load("foolsgold-adaptive").recipe.figures
    assert [figure.read for figure in file] == [f"{m} | sybils per attack" for m in reproductions.THRESHOLDS]


def test_the_more_dissimilar_the_more_sybils_and_as_many_as_the_closed_form_says():
    found = reproductions.adaptive_curve(thresholds=(0.8, 0.3, 0.1), seeds=(0,), changes=SMALL)
    needed = [found[f"{m} | sybils per attack"][0] for m in (0.8, 0.3, 0.1)]
    assert needed == sorted(needed)
    for m, value in zip((0.8, 0.3, 0.1), needed, strict=True):
        assert value == pytest.approx(found[f"{m} | closed form"], rel=0.3)
