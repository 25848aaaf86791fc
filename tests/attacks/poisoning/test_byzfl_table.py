"""The cells of ByzFL's table, and the set-up that is measured for them."""

import pytest
import torch

from fedsec.attacks.poisoning import byzfl_table
from fedsec.attacks.poisoning.byzfl_table import ATTACKS, STEP, configuration, rules, worst_best, worst_last
from fedsec.config import config_from
from fedsec.randomness import generator
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
        assert stack[0].start == "zero"
        # a bound of 2 on gradients is one of 2 lr on updates
        assert stack[1].c == pytest.approx(2.0 * config.federation.local.learning_rate)
        assert stack[1].acts_on_arrival
        assert stack[2].f == f


def test_the_geometric_median_is_byzfls():
    # three steps at a smallest distance of 0.1, on gradients and scaled back
    gradients = torch.randn(14, 6, generator=generator(0, "byzfl table"))
    z = torch.zeros(6)
    for _ in range(3):
        inverse = 1.0 / (gradients - z).norm(dim=1).clamp_min(0.1)
        z = (inverse.unsqueeze(1) * gradients).sum(0) / inverse.sum()
    stacks = {stack.label: stack for stack in config_from(configuration(gamma=0.0, f=4, seed=0)).stacks}
    rule = stacks["geometric median"].defenses[-1].function(14)
    torch.testing.assert_close(rule(STEP * gradients), STEP * z)
    # at such a smallest distance the unit matters
    near = gradients.clone()
    near[:10] *= 0.01
    assert not torch.allclose(rule(near), rule(STEP * near) / STEP, rtol=0.05)


def test_the_cells_where_seeds_differ_are_measured_on_three(monkeypatch, tmp_path):
    asked = {}

    def table(output, *, gammas, fs, seeds, jobs, progress):
        assert (output, jobs, progress) == (tmp_path, 2, "none")
        asked.update({(gamma, f): seeds for gamma in gammas for f in fs})
        return {f"{gamma} {f}": float(len(seeds)) for gamma in gammas for f in fs}

    monkeypatch.setattr(byzfl_table, "table", table)
    found = byzfl_table.byzfl_mnist(tmp_path, jobs=2, progress="none")
    assert asked == {(1.0, 1): (0,), (1.0, 4): (0,), (0.0, 1): (0,), (0.0, 4): (0, 1, 2)}
    assert found == {"1.0 1": 1.0, "1.0 4": 1.0, "0.0 1": 1.0, "0.0 4": 3.0}


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
