import os

import pytest

from fedsec.attacks.inversion import exact_reproductions
from fedsec.reproductions import catalogue

needs_data = pytest.mark.skipif("FEDSEC_DATA" not in os.environ, reason="FEDSEC_DATA does not name the public datasets")


@needs_data
def test_labels_are_read_at_a_small_scale(monkeypatch):
    for name, value in {"SINGLES": 10, "BATCHES": 2, "SIZES": (8,)}.items():
        monkeypatch.setattr(exact_reproductions, name, value)
    found = exact_reproductions.labels()
    for name in ("mnist", "cifar10"):
        assert found[f"idlg | {name} | with bias"] == found[f"idlg | {name} | without bias"] == 1.0
        assert found[f"embeddings | {name} | B = 8"][0] >= 0.95
    figures = [figure.read for figure in catalogue.load("labels").recipe.figures]
    assert {read for read in figures if not read.endswith(("B = 32", "B = 100"))} == set(found)


@needs_data
@pytest.mark.slow
def test_exact_inversion_is_exact(monkeypatch):
    monkeypatch.setattr(exact_reproductions, "RECURSIONS", {"mnist": 1, "cifar10": 1})
    found = exact_reproductions.exact()
    assert all(value < 1e-5 for name, value in found.items() if name.startswith("linear"))
    assert found["r-gap | lenet-sigmoid on mnist | psnr"] >= 60
    assert {figure.read for figure in catalogue.load("exact-inversion").recipe.figures} <= set(found)


@needs_data
def test_closed_forms_of_the_regression_hold_to_single_precision():
    assert all(value < 1e-5 for value in exact_reproductions._regression().values())
