"""What a stack noticed, over seeds, and what a stack says it bears."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from fedsec.audit.described import assumed, breakdown
from fedsec.audit.noticed import noticed
from fedsec.audit.utilities import Utilities


def stored(rounds, attackers, honest, client, group, dropped):
    return {
        "x/dropped/round": torch.tensor(rounds),
        "x/dropped/attackers": torch.tensor(attackers, dtype=torch.float64),
        "x/dropped/honest": torch.tensor(honest, dtype=torch.float64),
        "x/heard/client": torch.tensor(client),
        "x/heard/class": torch.tensor(group),
        "x/heard/third": torch.full((len(client),), -1),
        "x/heard/dropped": torch.tensor(dropped),
    }


ONE = stored([0, 1], [0.5, math.nan], [0.5, 0.0], [0, 1, 0, 1], [0, 2, 0, 2], [1, 0, 0, 0])
OTHER = stored([1, 2], [1.0, 0.0], [0.0, 0.0], [5, 5], [0, 0], [0, 0])


def test_shares_are_means_over_the_seeds_that_heard_somebody():
    found = noticed([ONE, OTHER], ("a", "b", "c"))
    assert found["rounds"] == {"x": [0, 1, 2], "attackers": [0.5, 1.0, 0.0], "honest": [0.5, 0.0, 0.0]}
    rows = {row["group"]: row for row in found["groups"]}
    assert set(rows) == {"a", "c"}  # nobody holds mostly b, and all are of one size
    assert rows["a"]["value"] == pytest.approx((0.5 + 0.0) / 2)
    assert (rows["a"]["clients"], rows["a"]["n"], rows["a"]["by"]) == (2, 4, "class")
    assert rows["a"]["low"] <= 0.25 <= rows["a"]["high"]
    assert rows["c"]["value"] == 0.0


def test_clients_are_told_apart_by_how_they_train_where_they_differ_in_it():
    mixed = ONE | {"x/heard/training": torch.tensor([1, 0, 1, 0])}
    found = noticed([mixed, OTHER], ("a", "b", "c"))
    rows = {row["group"]: row for row in found["groups"] if row["by"] == "training"}
    assert {name: row["value"] for name, row in rows.items()} == {"plain training": 0.0, "defended training": 0.5}
    assert {row["clients"] for row in rows.values()} == {1}
    alike = ONE | {"x/heard/training": torch.full((4,), -1)}
    assert not [row for row in noticed([alike], ("a", "b", "c"))["groups"] if row["by"] == "training"]


def test_nothing_is_shown_of_a_stack_that_drops_nobody():
    assert noticed([OTHER | {"x/dropped/attackers": torch.zeros(2)}], ("a",)) is None
    assert noticed([{}], ("a",)) is None
    attackers_only = noticed([OTHER], ("a",))
    assert attackers_only["groups"] == []


@dataclass(frozen=True)
class Rule:
    share: float | None = None
    values: tuple = ()
    hooks: tuple = ("aggregate",)

    def breakdown(self, setting):
        return self.share

    def parameters(self):
        return self.values

    def implements(self, hook):
        return hook in self.hooks


SETTING = SimpleNamespace(cohort=20.0)


def test_a_stack_bears_what_its_first_rule_to_fail_bears():
    assert breakdown((), SETTING) is None
    assert breakdown((Rule(), Rule(0.3), Rule(0.25)), SETTING) == 0.25


def test_what_a_rule_is_set_up_for_comes_from_its_parameters():
    counted, share = Rule(values=(("f", 4), ("fraction", 0.4))), Rule(values=(("f", None), ("fraction", 0.1)))
    kept = Rule(values=(("fraction", 0.01),), hooks=("seal",))
    assert assumed((counted,), SETTING) == pytest.approx(0.2)
    assert assumed((share, counted, kept), SETTING) == pytest.approx(0.1)
    assert assumed((kept,), SETTING) is None


def test_factors_do_not_depend_on_where_the_control_stands():
    def training(seconds):
        ledger = {
            "uploads": 2, "downloads": 2, "upload_bytes": 8 * seconds, "download_bytes": 8, "refused": {}, "dropped": 0,
        }  # fmt: skip
        document = {
            "ledger": ledger, "diagnostics": {}, "accuracy": [0.5], "loss": [1.0], "seconds": seconds, "engine": "loop",
            "rounds": [0],
        }  # fmt: skip
        return SimpleNamespace(document=document, tensors={"correct": torch.tensor([1, 0])})

    done = {"slow": training(6.0), "none": training(2.0)}
    honest = {(label, 0): SimpleNamespace(stack=label, seed=0) for label in ("slow", "none", "late")}
    rows = Utilities(honest, control="none", rounds=2, read=lambda t: done.get(t.stack)).rows(["slow", "none", "late"])
    assert [row["stack"] for row in rows] == ["slow", "none", "late"]
    assert (rows[0]["ratio_seconds"], rows[0]["ratio_upload"], rows[1]["ratio_seconds"]) == (3.0, 3.0, 1.0)
    assert rows[0]["seconds_per_round"] == 3.0
    assert rows[2] == {"stack": "late", "seeds": []}
