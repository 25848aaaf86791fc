import pytest
import torch

from fedsec.audit.robustness import farthest_held, worst_case


def cell(fooled, moved, clean=(0, 0, 0, 0)):
    return {
        "robust_error/units": torch.tensor(fooled, dtype=torch.float32),
        "clean_error/units": torch.tensor(clean, dtype=torch.float32)[: len(fooled)],
        "mean_perturbation_linf/units": torch.tensor(moved),
        "mean_perturbation_l2/units": torch.tensor(moved) * 2,
    }


def test_each_input_counts_the_attack_that_moved_it_least():
    first = cell([1, 0, 1, 0], [0.3, 0.1, 0.3, 0.3])
    second = cell([0, 1, 1, 0], [0.1, 0.2, 0.1, 0.1])
    assert farthest_held([first, second], "linf").tolist() == pytest.approx([0.3, 0.2, 0.1, torch.inf])
    assert farthest_held([first, second], "l2").tolist() == pytest.approx([0.6, 0.4, 0.2, torch.inf])


def test_an_input_that_is_misread_already_is_held_by_nothing_and_the_shorter_attack_counts():
    first = cell([1, 0, 1, 0], [0.3, 0.1, 0.3, 0.3], clean=(0, 0, 1, 1))
    second = cell([0, 1], [0.1, 0.2])
    assert farthest_held([first, second], "linf").tolist() == pytest.approx([0.3, 0.2])
    assert farthest_held([first], "linf").tolist() == pytest.approx([0.3, torch.inf, 0.0, 0.0])


def test_accuracy_is_the_worst_case_of_each_input_and_never_a_mean_of_attacks():
    # two attacks at 0.3, each of which fools another half
    held = farthest_held([cell([1, 1, 0, 0], [0.3] * 4), cell([0, 0, 1, 0], [0.3] * 4)], "linf")
    found = worst_case("none", "linf", [0.3, 0.1], [held, held], ["a", "b"])
    assert [(p["size"], p["value"]) for p in found["points"]] == [(0.0, 1.0), (0.1, 1.0), (0.3, 0.25)]
    assert all(p["low"] <= p["value"] <= p["high"] for p in found["points"])
    assert found["inputs"] == 8
    assert found["distances"]["held"] == 2
    assert sum(found["distances"]["counts"]) == 6
    assert found["distances"]["largest"] == pytest.approx(0.3)


def test_a_model_that_nothing_fools_has_no_distances():
    found = worst_case("none", "linf", [0.3], [torch.full((4,), torch.inf, dtype=torch.float64)], ["a"])
    assert found["distances"] == {"largest": 0.0, "counts": [], "held": 4}
    assert found["points"][-1]["value"] == 1.0
