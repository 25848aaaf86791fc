"""What the reproductions of cheap adversarial training measure, on digits."""

import dataclasses

import pytest
import torch
from torch import nn

from fedsec.attacks.evasion import reproductions
from fedsec.attacks.evasion.reproductions import FREE_CIFAR, YOPO_MNIST, counted, measured
from fedsec.reproductions.catalogue import load

DIGITS = {"name": "digits", "train": 400, "test": 100}
STUDIES = {"yopo-mnist": YOPO_MNIST, "free-cifar": FREE_CIFAR}


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_of_the_file_is_measured(name: str) -> None:
    study = STUDIES[name]
    recipe = load(name).recipe
    assert recipe.measure == f"fedsec.attacks.evasion.reproductions:{name.replace('-', '_')}"
    assert callable(getattr(reproductions, name.replace("-", "_")))
    small = dataclasses.replace(study, federation={**study.federation, "dataset": DIGITS, "rounds": 5}, steps=2)
    found = measured(small)
    for figure in recipe.figures:
        assert figure.read in found
    for label in study.trainings:
        value, low, high = found[f"{label} | robust"]
        assert 0.0 <= low <= value <= high <= 1.0
        assert value <= found[f"{label} | accuracy"][0]
        assert found[f"{label} | seconds"] > 0
    passes = {figure.read: figure.low for figure in recipe.figures if figure.unit == "passes"}
    assert passes
    assert {read: found[read] for read in passes} == passes
    cheap = next(label for label in study.trainings if label not in ("natural", "pgd-at"))
    difference = found[f"{cheap} - pgd-at | robust"][0]
    assert difference == pytest.approx(found[f"{cheap} | robust"][0] - found["pgd-at | robust"][0])


def test_passes_are_counted_by_example_and_only_those_with_gradients() -> None:
    net, x = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.rand(5, 4)
    with counted(2) as spent:
        net(x).sum().backward()
        net(x[:2])
        with torch.no_grad():
            net(x)
    net(x).sum().backward()
    assert (spent.forwards, spent.backwards) == (7, 5)


@pytest.mark.parametrize("name", STUDIES)
def test_trainings_and_attack_have_one_size(name: str) -> None:
    study = STUDIES[name]
    specs = [spec for stack in study.trainings.values() for spec in stack]
    assert {spec["eps"] for spec in specs} == {study.eps}
    assert len({spec.get("ramp", 0) for spec in specs}) == 1
