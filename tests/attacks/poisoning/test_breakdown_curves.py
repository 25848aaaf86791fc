"""The curves' set-up and how they are read from audits."""

import pytest

from fedsec.attacks.poisoning.breakdown_curves import CLIENTS, SHARES, configuration, curves, read, rules
from fedsec.config import config_from
from fedsec.data.embedded import Digits
from fedsec.reproductions.catalogue import load
from fedsec.reproductions.run import key


@pytest.mark.parametrize("share", SHARES)
def test_rules_are_told_the_true_number(share):
    config = config_from(configuration(share, seeds=2))
    stacks = {stack.label: stack.defenses for stack in config.stacks}
    f = round(share * CLIENTS)
    assert {stacks[label][0].f for label in ("trimmed mean", "multi-krum")} == {f}
    assert {attack.plugin.fraction for attack in config.attacks} == {share}


def test_the_worst_attack_is_the_one_that_leaves_least():
    def finding(attack, value):
        return {
            "stack": "median",
            "attack": attack,
            "metrics": {"accuracy_last": {"value": value, "low": value - 0.1, "high": 0.9}},
        }

    document = {
        "utilities": [{"stack": "none", "curve": {"y": [0.0, 0.5, 0.5, 0.5, 0.5, 1.0]}}],
        "findings": [
            finding("alie", 0.6),
            finding("min-max", 0.4),
            {"stack": "median", "attack": "broken", "metrics": {}},
        ],
    }
    found = read(document, 0.2)
    assert found["mean | nobody | 0.2"] == pytest.approx((0.6, 0.6, 0.6))
    assert found["median | worst | 0.2"] == found["median | min-max | 0.2"] == pytest.approx((0.4, 0.3, 0.9))
    assert "median | broken | 0.2" not in found


def test_a_short_run_measures_every_figure_of_the_recipe(tmp_path, monkeypatch):
    from fedsec.attacks.poisoning import breakdown_curves

    def small(share, *, seeds, rounds):
        raw = configuration(share, seeds=seeds, rounds=rounds)
        raw["federation"] |= {"dataset": {"name": Digits.name, "train": 400, "test": 100}, "model": "softmax"}
        return raw

    monkeypatch.setattr(breakdown_curves, "configuration", small)
    found = curves(tmp_path, shares=(0.4,), seeds=1, jobs=0, progress="none", rounds=30)
    wanted = {key(figure.read) for figure in load("fashion-mnist-curves").recipe.figures}
    assert {name.rpartition(" | ")[0] for name in wanted} <= {name.rpartition(" | ")[0] for name in found}
    assert {name.partition(" | ")[0] for name in found} == {"mean", *rules(1)}
    # four times the opposite from 40 % of the clients: the mean goes backwards, the median does not
    assert found["mean | sign-flip | 0.4"][0] < 0.3
    assert found["median | nobody | 0.4"][0] > 0.5
