"""The measurements of federated adversarial training, on digits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedsec.attacks.evasion import federated_training
from fedsec.attacks.evasion.federated_training import ALIKE, APART, CASES, CENTRAL, Case, measured
from fedsec.config import config_from
from fedsec.reproductions.catalogue import load

TINY = Case(
    dataset={"name": "digits", "train": 300, "holdout": 0, "auxiliary": 0, "test": 60},
    clients=1,
    partition=ALIKE,
    rounds=2,
    epochs=2,
    stack=({"name": "pgd-at", "eps": 0.1, "steps": 2},),
    eps={"robust": 0.1},
)


@pytest.fixture(scope="module")
def found() -> federated_training.Figures:
    return measured(
        {
            "undefended": replace(TINY, stack=(), eps={"small": 0.0, "large": 0.5}),
            CENTRAL: TINY,
            "again": TINY,
            "many": replace(TINY, clients=3),
        }
    )


def test_the_same_training_differs_by_nothing(found):
    for name in ("accuracy", "robust"):
        assert found[f"again | {name}"] == found[f"{CENTRAL} | {name}"]
        assert found[f"again - {CENTRAL} | {name}"] == (0.0, 0.0, 0.0)


def test_differences_are_those_of_the_shares_and_within_their_intervals(found):
    for name in ("accuracy", "robust"):
        middle, low, high = found[f"many - {CENTRAL} | {name}"]
        assert middle == pytest.approx(found[f"many | {name}"][0] - found[f"{CENTRAL} | {name}"][0])
        assert low <= middle <= high
        assert low < high


def test_attacks_of_no_size_change_nothing_and_large_ones_leave_less(found):
    assert found["undefended | small"] == found["undefended | accuracy"]
    assert found["undefended | large"][0] < found["undefended | accuracy"][0]
    for case in (CENTRAL, "many"):
        assert found[f"{case} | robust"][0] <= found[f"{case} | accuracy"][0]


def test_what_trains_against_nothing_is_neither_compared_nor_checked_for_masking(found):
    assert not [name for name in found if name.startswith("undefended") and ("-" in name or "masking" in name)]


def test_the_cases_of_the_reproduction_are_configurations_that_differ_in_one_thing():
    for case in CASES.values():
        config_from(case.configuration())
    central, alike, apart = (CASES[name] for name in (CENTRAL, "IID", "Dirichlet .1"))
    assert replace(central, clients=10) == alike
    assert replace(apart, partition=ALIKE) == alike
    assert apart.partition == APART


def test_every_figure_of_the_file_is_one_of_a_case():
    recipe = load("fedavg-at-mnist").recipe
    assert recipe.measure == "fedsec.attacks.evasion.federated_training:fedavg_at_mnist"
    for figure in recipe.figures:
        label, name = figure.read.split(" | ")
        case, _, other = label.partition(" - ")
        assert name in {"accuracy", "masking", *CASES[case].eps}
        assert other in {"", CENTRAL}
        assert CASES[case].stack or name != "masking"
