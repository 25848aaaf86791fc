"""What the reproductions measure, on a smaller federation that the package carries."""

from __future__ import annotations

import pytest

from fedsec.attacks.membership import reproductions
from fedsec.reproductions.catalogue import load

SMALL = {
    "dataset": {"name": "digits", "train": 80, "holdout": 0, "auxiliary": 0, "test": 50},
    "model": {"name": "mlp", "hidden": [32]},
    "rounds": 5,
    "local": {"epochs": 5, "batch_size": 10, "learning_rate": 0.3},
}


@pytest.fixture
def alone(monkeypatch):
    """No helper process: starting one takes longer than these federations."""
    monkeypatch.setattr(reproductions.os, "cpu_count", lambda: 1)


@pytest.mark.usefixtures("alone")
def test_every_figure_of_the_file_is_measured():
    found = reproductions.lira_fashion_mnist(targets=6, watched=1, changes=SMALL)
    for figure in load("lira-fashion-mnist").recipe.figures:
        assert figure.read in found
    area, low, high = found["lira online fixed | auc"]
    assert low <= area <= high
    assert area > 0.5


@pytest.mark.usefixtures("alone")
def test_neither_a_target_nor_its_complement_is_its_own_shadow(monkeypatch):
    """With its complement among the shadows, the number of shadows with an example would tell the target's half."""
    seen = []
    original = reproductions.likelihood_ratio

    def spy(target, known, kinds, *, per_sample):
        seen.append(kinds.sum(0))
        assert not any(target.equal(row) for row in known)
        return original(target, known, kinds, per_sample=per_sample)

    monkeypatch.setattr(reproductions, "likelihood_ratio", spy)
    reproductions.lira_fashion_mnist(targets=6, watched=1, changes=SMALL)
    assert all((counts == 2).all() for counts in seen)


@pytest.mark.slow
def test_the_gaussian_figures_of_the_file():
    found = reproductions.gaussian()
    for figure in load("membership-gaussian").recipe.figures:
        value = found[figure.read]
        value = value if isinstance(value, float) else value[0]
        assert figure.low <= value <= figure.high, figure.name
