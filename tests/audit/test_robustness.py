from types import SimpleNamespace

import pytest
import torch

from fedsec.audit.robustness import (
    asked_for,
    by_client,
    commonest,
    farthest_held,
    span_of,
    stated,
    unstated,
    worst_case,
)

INF = torch.inf


def cell(reach, **more):
    found = torch.tensor(reach, dtype=torch.float32)
    return {"reach/linf": found, "reach/l2": found * 2, "reach/l1": found * 3, **more}


def test_each_input_counts_the_attack_that_moved_it_least_and_the_shorter_attack_counts():
    first, second = cell([0.3, INF, 0.3, INF]), cell([INF, 0.2, 0.1])
    assert farthest_held([first, second], "linf").tolist() == pytest.approx([0.3, 0.2, 0.1])
    assert farthest_held([first, second], "l2").tolist() == pytest.approx([0.6, 0.4, 0.2])
    assert farthest_held([first], "l1").tolist() == pytest.approx([0.9, INF, 0.9, INF])


def test_accuracy_is_the_worst_case_of_each_input_and_never_a_mean_of_attacks():
    # two attacks at 0.3, each of which fools another half
    held = farthest_held([cell([0.3, 0.3, INF, INF]), cell([INF, INF, 0.3, INF])], "linf")
    found = worst_case("none", "linf", [0.3, 0.1], [held, held], ["a", "b"], top=0.3)
    assert [(p["size"], p["value"]) for p in found["points"]] == [(0.0, 1.0), (0.1, 1.0), (0.3, 0.25)]
    assert all(p["low"] <= p["value"] <= p["high"] for p in found["points"])
    assert found["inputs"] == 8
    assert found["distances"]["held"] == 2
    assert sum(found["distances"]["counts"]) == 6
    assert found["curve"] == []


def test_one_run_that_seeks_the_nearest_points_tells_the_accuracy_at_every_size():
    reach = torch.tensor([0.0, 0.1, 0.25, 0.4, 2.0, INF], dtype=torch.float64)
    found = worst_case("none", "l2", [0.2], [reach], ["a"], top=0.5, seekers=["a"])
    assert [p["size"] for p in found["curve"]] == pytest.approx([0.025 * k for k in range(21)])
    for point in found["curve"]:
        assert point["value"] == pytest.approx(float((reach > point["size"] + 1e-6).double().mean()))
    counts = found["distances"]["counts"]
    assert [k for k, count in enumerate(counts) if count] == [4, 10, 16]
    assert (found["distances"]["beyond"], found["distances"]["held"]) == (1, 1)


def test_a_model_that_nothing_fools_has_no_distances():
    found = worst_case("none", "linf", [0.3], [torch.full((4,), INF, dtype=torch.float64)], ["a"], top=0.3)
    assert found["distances"] == {"largest": 0.3, "counts": [0] * 20, "beyond": 0, "held": 4}
    assert found["points"][-1]["value"] == 1.0


def test_the_axis_ends_at_the_largest_size_unless_points_beyond_were_sought():
    reach = [torch.tensor([0.0, 0.1, 0.9, INF], dtype=torch.float64)]
    assert span_of([0.3, 0.2], reach, beyond=False) == 0.3
    assert 0.8 < span_of([0.3], reach, beyond=True) <= 0.9
    assert span_of([0.3], [torch.full((3,), INF, dtype=torch.float64)], beyond=True) == 0.3


def test_every_norm_with_a_size_is_stated_and_another_one_is_told():
    attacks = [
        SimpleNamespace(norm="l1", eps=5),
        SimpleNamespace(norm="linf", eps=0.3),
        SimpleNamespace(norm="linf", eps=0.1),
        SimpleNamespace(norm="linf", eps=0.1),
        SimpleNamespace(norm="l0", eps=3),
        SimpleNamespace(eps=3),
        SimpleNamespace(norm="l2"),
    ]
    asked = asked_for(attacks)
    assert asked == {"linf": {0.3: 1, 0.1: 2}, "l1": {5.0: 1}}
    assert commonest(asked["linf"]) == 0.1
    assert [bool(unstated(attack)) for attack in attacks] == [False] * 4 + [True] * 3
    assert "the norm l0" in unstated(attacks[4])


def test_clients_are_sorted_by_the_accuracy_at_their_own_classes():
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    mix = torch.tensor([[0, 6], [3, 3], [5, 0], [0, 0]])
    reach = torch.tensor([0.1, 0.1, 0.1, INF, INF, INF, INF, 0.1], dtype=torch.float64)
    found = by_client(reach, [cell([0.1] * 8, **{"slices/classes": classes, "slices/mix": mix})], 0.2, seed=3)
    assert (found["size"], found["seed"]) == (0.2, 3)
    rows = found["clients"]
    assert [(row["client"], row["value"]) for row in rows] == [(2, 0.25), (1, 0.5), (0, 0.75)]
    assert [row["n"] for row in rows] == pytest.approx([4, 8, 4])
    assert all(row["low"] < row["value"] < row["high"] for row in rows)
    assert rows[0]["low"] == pytest.approx(0.0063, abs=1e-4)  # Clopper-Pearson, 1 of 4
    assert by_client(reach, [cell([0.1] * 8)], 0.2, seed=3) is None


def test_stacks_share_an_axis_and_only_attacks_in_a_norm_draw_its_curve():
    beyond = {"reach/beyond": torch.ones(1, dtype=torch.bool)}
    seen = {
        "none": {0: {"near": cell([0.1, 0.2], **beyond), "ball": cell([0.3, 0.3])}},
        "d": {0: {"near": cell([0.5, INF], **beyond)}},
        "empty": {},
    }
    sizes = asked_for([SimpleNamespace(norm="l2", eps=0.4), SimpleNamespace(norm="linf", eps=0.3)])
    rows = stated(seen, sizes, {"near": "l2", "ball": "linf"})
    assert [(row["stack"], row["norm"]) for row in rows] == [
        ("none", "linf"),
        ("none", "l2"),
        ("d", "linf"),
        ("d", "l2"),
    ]
    assert [row["seekers"] for row in rows] == [[], ["near"], [], ["near"]]
    assert [bool(row["curve"]) for row in rows] == [False, True, False, True]
    assert rows[1]["distances"]["largest"] == rows[3]["distances"]["largest"] > 0.4
    assert rows[0]["attacks"] == ["near", "ball"]
