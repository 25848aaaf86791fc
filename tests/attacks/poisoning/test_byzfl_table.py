"""The cells of ByzFL's table, and the set-up that is measured for them."""

import pytest

from fedsec.attacks.poisoning.byzfl_table import ATTACKS, configuration, rules, worst_best, worst_last
from fedsec.config import config_from
from fedsec.reproductions.catalogue import load
from fedsec.reproductions.run import key


def test_a_cell_is_the_best_round_of_the_mean_curve_under_the_worst_attack():
    curves = {
        # mean curve .3 .7 .5: the seeds' own best rounds would give .85
        "peaks": [[0.2, 0.9, 0.4], [0.4, 0.5, 0.8 - 0.2]],
        "harmless": [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9]],
    }
    assert worst_best(curves) == pytest.approx(0.7)
    assert worst_last(curves, last=2) == pytest.approx((0.9 + 0.4 + 0.5 + 0.6) / 4)
    assert worst_last(curves, last=1) == pytest.approx(0.5)
    # another attack may be the worst at the end
    curves["late"] = [[0.95, 0.95, 0.1], [0.95, 0.95, 0.1]]
    assert worst_best(curves) == pytest.approx(0.7)
    assert worst_last(curves, last=1) == pytest.approx(0.1)


@pytest.mark.parametrize("f", [1, 4])
def test_the_configuration_is_right_and_clips_as_byzfl_does(f):
    config = config_from(configuration(gamma=0.0, f=f, seed=3))
    assert [attack.label for attack in config.attacks] == list(ATTACKS)
    assert {attack.plugin.identities for attack in config.attacks} == {f}
    assert all(attack.plugin.fraction == 0.0 and attack.plugin.omniscience for attack in config.attacks)
    stacks = {stack.label: stack.defenses for stack in config.stacks if stack.defenses}
    assert list(stacks) == list(rules(f))
    for stack in stacks.values():
        assert [defense.name for defense in stack][:3] == ["client-momentum", "clip", "nnm"]
        # a bound of 2 on gradients is one of 2 lr on updates
        assert stack[1].c == pytest.approx(2.0 * config.federation.local.learning_rate)
        assert stack[1].acts_on_arrival
        assert stack[2].f == f


def test_every_cell_of_the_recipe_is_measured():
    reads = {key(figure.read) for figure in load("byzfl-mnist").recipe.figures}
    cells = {
        f"gamma={g} f={f} | {rule} | {what}"
        for g in (0, 1)
        for f in (1, 4)
        for rule in rules(f)
        for what in ("best", "last")
    }
    assert reads == cells
