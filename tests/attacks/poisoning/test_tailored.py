"""The search against a known rule: cheap forms say what the rows say, and nothing better is found by brute force."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning import tailored
from fedsec.attacks.poisoning.damage import SAMPLE, Line, damage_of
from fedsec.attacks.poisoning.known_rule import Tailored, stand_ins
from fedsec.attacks.poisoning.tailored import search
from fedsec.attacks.poisoning.vectors import mean_of, push_along
from fedsec.defenses.aggregation import (
    centered_clipping,
    clip_norms,
    coordinate_median,
    geometric_median,
    krum,
    mean,
    mean_around_median,
    minimum_diameter_averaging,
    multi_krum,
    nearest_neighbor_mixing,
    trimmed_mean,
)
from fedsec.errors import NotKnownError
from fedsec.randomness import generator
from fedsec.round_geometry import chain
from fedsec.threat import Knowledge

from .coalitions import coalition, facts

DIRECTIONS = ("std", "unit", "sign")
F = 3
NNM = partial(nearest_neighbor_mixing, f=F)
RULES = {
    "mean": mean,
    "median": coordinate_median,
    "trimmed mean": partial(trimmed_mean, f=F),
    "mean around median": partial(mean_around_median, f=F),
    "krum": partial(krum, f=F),
    "multi-krum": partial(multi_krum, f=F),
    "geometric median": geometric_median,
    "mda": partial(minimum_diameter_averaging, f=F),
    "centered clipping": partial(centered_clipping, tau=2.0),
    "clipped mean": chain(partial(clip_norms, c=3.0), mean),
    "nnm, krum": chain(NNM, partial(krum, f=F)),
    "nnm, median": chain(NNM, coordinate_median),
    "nnm, clip, trimmed mean": chain(NNM, partial(clip_norms, c=2.0), partial(trimmed_mean, f=F)),
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "tailored"))


def updates(h, d, *, seed=0):
    return normal(h, d, seed=seed) + 0.7 * normal(d, seed=seed + 1000)


def slow_damage(H, rule, vector, f=F):
    rows = torch.cat([H, vector.expand(f, -1)])
    return float((rule(rows).double() - H.double().mean(dim=0)).norm())


def line_of(H, f=F):
    mean_row = mean_of(H)
    return Line(H, mean_row, tuple(push_along(H, mean_row, each) for each in DIRECTIONS), copies=f)


@pytest.mark.parametrize("name", RULES)
def test_cheap_forms_say_what_the_rows_say(name):
    H = updates(10, 60).double()
    line = line_of(H)
    damage = damage_of(RULES[name], line)
    assert damage.reads in ("products", "sample")
    for place in range(3):
        for gamma in (-30.0, -1.1, -0.3, 0.02, 0.9, 2.7, 400.0):
            (cheap,) = damage.of(place, [gamma], rough=True)
            # the geometric median stops at a tolerance, and starts elsewhere when it has no rows
            exact = slow_damage(H, RULES[name], line.point(place, gamma))
            assert cheap == pytest.approx(exact, rel=1e-5, abs=1e-7), (place, gamma)


@pytest.mark.parametrize("name", RULES)
def test_brute_force_finds_nothing_better(name):
    H = updates(10, 40, seed=1).double()
    before = H.clone()
    found = search(H, RULES[name], f=F, n=13)
    assert torch.equal(H, before)
    assert found.damage == pytest.approx(slow_damage(H, RULES[name], found.vector))
    torch.testing.assert_close(
        found.vector, H.mean(dim=0) + found.gamma * push_along(H, H.mean(dim=0), found.direction)
    )
    line = line_of(H)
    for place, push in enumerate(line.pushes):
        unit = 10.0 / float(push.norm())
        for gamma in np.geomspace(1e-3, 30.0, 60):
            for sign in (-1, 1):
                other = slow_damage(H, RULES[name], line.point(place, sign * gamma * unit))
                assert other <= found.damage * (1 + 1e-6)


@given(h=st.integers(4, 9), d=st.integers(2, 25), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_it_beats_what_does_not_know_the_rule(h, d, seed):
    H = updates(h, d, seed=seed).double()
    rule = partial(multi_krum, f=1)
    found = search(H, rule, f=1, n=h + 1)
    spread = H.std(dim=0)
    for z in (-2.0, -0.5, 0.3, 1.0, 1.5):
        assert slow_damage(H, rule, H.mean(dim=0) + z * spread, f=1) <= found.damage * (1 + 1e-6)
    for epsilon in (0.1, 0.5, 2.0, 10.0):
        assert slow_damage(H, rule, -epsilon * H.mean(dim=0), f=1) <= found.damage * (1 + 1e-6)


@pytest.mark.parametrize("other", [[-2.74877907, -3.43597384, -4.1231686], [12.91985116, 13.91985116, 14.91985116]])
def test_it_does_no_less_than_what_byzfls_tests_expect_of_its_searches(other):
    H = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], dtype=torch.float64)
    rule = chain(partial(nearest_neighbor_mixing, f=1), partial(clip_norms, c=2.0), partial(trimmed_mean, f=1))
    found = search(H, rule, f=1, n=4)
    assert found.damage >= slow_damage(H, rule, torch.tensor(other, dtype=torch.float64), f=1) * (1 - 1e-9)


def test_an_edge_is_found_to_its_end():
    """Krum lets go of the copies at one push; a hair before it, damage is highest."""
    H = updates(10, 500, seed=4).double()
    rule = partial(krum, f=F)
    found = search(H, rule, f=F, n=13, direction="std")
    push = push_along(H, H.mean(dim=0), "std")
    assert torch.equal(rule(torch.cat([H, found.vector.expand(F, -1)])), found.vector)
    beyond = H.mean(dim=0) + 1.001 * found.gamma * push
    assert not torch.equal(rule(torch.cat([H, beyond.expand(F, -1)])), beyond)


def test_both_signs_are_tried():
    """A rule that trusts nothing above the mean can only be moved down, and the other way round."""
    H = updates(10, 30, seed=2).double()
    centre = H.mean(dim=0)
    for sign in (1.0, -1.0):

        def rule(U, s=sign):
            return s * torch.minimum(s * U.mean(dim=0), s * centre)

        found = search(H, rule, f=F, n=13, direction="std", reach=50.0)
        assert found.gamma * sign > 0
        assert found.damage > 1.0
        assert {np.sign(gamma) for _, gamma, _ in found.curve} == {-1.0, 1.0}


def test_a_rule_without_a_bound_is_pushed_to_the_end_of_reach():
    H = updates(10, 30).double()
    centre = H.mean(dim=0)
    radius = max(float((H - centre).norm(dim=1).max()), float(centre.norm()))
    for reach in (5.0, 1e4):
        found = search(H, mean, f=F, n=13, reach=reach)
        assert float((found.vector - centre).norm()) == pytest.approx(reach * radius, rel=1e-6)
        assert found.damage == pytest.approx(F / 13 * reach * radius, rel=1e-6)


@pytest.mark.parametrize("name", ["median", "nnm, median"])
def test_a_sample_of_coordinates_stands_for_all(name):
    d = 3 * SAMPLE
    H = updates(10, d, seed=3) * torch.exp(1.5 * normal(d, seed=9))
    line = line_of(H)
    damage = damage_of(RULES[name], line)
    for place in range(3):
        for gamma in (-0.8, 1.5):
            exact = slow_damage(H, RULES[name], line.point(place, gamma))
            # where the rule drops all copies, damage is rounding
            noise = 1e-5 * float(H.norm())
            near = {
                "fine": pytest.approx(exact, rel=0.03, abs=noise),
                "rough": pytest.approx(exact, rel=0.08, abs=noise),
            }
            assert damage.of(place, [gamma], rough=False)[0] == near["fine"]
            assert damage.of(place, [gamma], rough=True)[0] == near["rough"]
    found = search(H, RULES[name], f=F, n=13)
    # what it reports was measured on all of them
    assert found.damage == pytest.approx(slow_damage(H, RULES[name], found.vector), rel=1e-6)


def test_a_rule_without_a_form_is_asked_about_a_hundred_times():
    H = updates(10, 50)
    calls = []

    def rule(U):
        calls.append(U.shape)
        return U.median(dim=0).values

    found = search(H, rule, f=F, n=13)
    assert set(calls) == {(13, 50)}
    assert len(calls) <= 120
    assert found.damage >= 0.98 * search(H, coordinate_median, f=F, n=13).damage


def test_degenerate_updates():
    zeros = torch.zeros(5, 4)
    assert not tailored(zeros, coordinate_median, f=2, n=7).any()
    same = torch.ones(5, 4)
    bad = tailored(same, mean, f=2, n=7, reach=10.0)
    assert float((bad - same[0]).norm()) == pytest.approx(20.0)
    half = updates(10, 20).half()
    assert torch.isfinite(tailored(half, mean, f=F, n=13)).all()


def test_guards():
    with pytest.raises(ValueError, match="reach must be positive"):
        tailored(normal(4, 3), mean, f=1, n=5, reach=0.0)
    with pytest.raises(ValueError, match="n >= 2 rows"):
        tailored(normal(1, 3), mean, f=1, n=2)
    with pytest.raises(ValueError, match="Krum"):
        tailored(normal(4, 3), partial(krum, f=3), f=3, n=7)


class Server:
    """A server that anybody may rehearse."""

    def __init__(self, rule, *, pure=True):
        self.rule, self.pure, self.models = rule, pure, []

    def __call__(self, updates, *, model=None):
        self.models.append(model)
        return self.rule(updates)

    def function(self, n):
        return self.rule if self.pure else None


def test_the_plugin_attacks_the_servers_own_rule():
    honest, own = updates(15, 30), updates(5, 30, seed=1)
    known = {Knowledge.AGGREGATION_RULE, Knowledge.HONEST_UPDATES}
    rule = partial(multi_krum, f=5)
    view = coalition(own, honest=honest, model=torch.full((30,), 7.0))
    adversary = Tailored(omniscient=True)
    sent = adversary.craft(view, facts(knowledge=known, aggregate=Server(rule)), generator=generator(1))
    torch.testing.assert_close(sent, tailored(honest, rule, f=5, n=20, reach=100.0).expand(5, 30))
    # a server that is more than one function is asked itself, with the model of the round
    server = Server(rule, pure=False)
    again = adversary.craft(view, facts(knowledge=known, aggregate=server), generator=generator(1))
    assert slow_damage(honest, rule, again[0], f=5) > 0.7 * slow_damage(honest, rule, sent[0], f=5)
    assert all(torch.equal(model, view.model) for model in server.models)


def test_from_its_own_updates_it_simulates_the_others():
    own = updates(6, 40)
    known = facts(knowledge={Knowledge.AGGREGATION_RULE}, aggregate=Server(partial(krum, f=6)))
    sent = Tailored().craft(coalition(own), known, generator=generator(1))
    assert torch.isfinite(sent).all()
    assert not torch.allclose(sent, own)
    # against honest updates that it did not see, it still does harm
    others = updates(14, 40)
    assert slow_damage(others, partial(krum, f=6), sent[0], f=6) > 1.0
    assert torch.equal(Tailored().craft(coalition(own[:1]), known, generator=generator(1)), own[:1])


def test_the_rule_is_declared_knowledge():
    assert Knowledge.AGGREGATION_RULE in Tailored().knows()
    assert Knowledge.HONEST_UPDATES not in Tailored().knows()
    with pytest.raises(NotKnownError, match="aggregation rule"):
        Tailored().craft(coalition(updates(4, 9)), facts(), generator=generator(1))


def test_stand_ins_have_the_mean_and_the_covariance_of_what_is_known():
    known = updates(5, 8).double() * torch.linspace(0.5, 2.0, 8)
    rows = stand_ins(known, 40_000, generator=generator(2))
    torch.testing.assert_close(rows.mean(dim=0), known.mean(dim=0), rtol=0.0, atol=0.05)
    torch.testing.assert_close(rows.T.cov(), known.T.cov(), rtol=0.05, atol=0.1)
