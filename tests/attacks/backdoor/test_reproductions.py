"""What the reproduction measures, on a smaller federation."""

import os

import pytest

from fedsec.attacks.backdoor import reproductions
from fedsec.reproductions.catalogue import load

SMALL = {
    "dataset": {"name": "mnist", "train": 600, "auxiliary": 100, "test": 100},
    "model": {"name": "mlp", "hidden": [16]},
    "clients": 100,
    "rounds": 10,
    "evaluate_every": 1,
}


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("FEDSEC_DATA"), reason="FEDSEC_DATA does not point to the datasets")
def test_every_figure_of_the_files_is_measured(monkeypatch):
    monkeypatch.setattr(reproductions, "CLEAN_ROUNDS", 2)
    monkeypatch.setattr(reproductions, "LASTING_ROUNDS", 20)
    found = reproductions.dba_mnist(seeds=(0,), changes=SMALL)
    for name in ("dba-mnist", "dba-fashion-mnist"):
        recipe = load(name).recipe
        assert recipe.measure == f"fedsec.attacks.backdoor.reproductions:{name.replace('-', '_')}"
        for figure in recipe.figures:
            assert figure.read in found
    assert all(0.0 <= found[f"dba | {stack} | attack_success"] <= 1.0 for stack in reproductions.STACKS)


def test_the_shots_are_those_of_the_paper():
    attack = reproductions.ATTACKS["dba"]
    shots = {(number, place) for number in range(30) for place in range(4) if attack.acts(number, place)}
    assert shots == {(2, 0), (4, 1), (6, 2), (8, 3)}
    assert all(attack.attends(number) == (place,) for number, place in shots)
    assert (attack.epochs, attack.learning_rate, attack.plants.target) == (10, 0.05, 2)
    assert attack.plants.ratio == 20 / 64
    assert attack.fraction * reproductions.FEDERATION["clients"] == 4
