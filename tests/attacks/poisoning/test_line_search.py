"""The short search of ByzFL against its own values, and the plugin around it."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning.line_search import LineSearch, climb, line_search
from fedsec.attacks.poisoning.tailored import search
from fedsec.defenses.aggregation import clip_norms, krum, mean, nearest_neighbor_mixing, trimmed_mean
from fedsec.randomness import generator
from fedsec.round_geometry import chain
from fedsec.threat import Knowledge

from .coalitions import coalition, facts

GRADIENTS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], dtype=torch.float64)
RULE = chain(partial(nearest_neighbor_mixing, f=1), partial(clip_norms, c=2.0), partial(trimmed_mean, f=1))


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        # what the tests of byzfl 0.0.11 expect of its optimised attacks
        ("mean", [-2.74877907, -3.43597384, -4.1231686]),
        ("std", [12.91985116, 13.91985116, 14.91985116]),
    ],
)
def test_byzfl_finds_the_same(direction, expected):
    # its rows are gradients and point uphill
    found = -line_search(-GRADIENTS, RULE, f=1, n=4, direction=direction)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


def slow(value, *, evaluations, first, ratio):
    """The search as byzfl's documentation tells it: expansion, then contraction."""
    best, height, step, left = 0.0, value(0.0), first, evaluations - 1
    while left:
        left -= 1
        if value(best + step) > height:
            best, height, step = best + step, value(best + step), 2 * step
        else:
            step *= ratio
            break
    while left:
        left -= 1
        if value(best + step) > height:
            best, height = best + step, value(best + step)
        step *= ratio
    return best


@settings(deadline=None, max_examples=60)
@given(st.floats(-5, 500), st.floats(0.1, 30), st.floats(0.55, 0.95), st.integers(2, 30))
def test_the_climb_expands_and_then_contracts(peak, first, ratio, evaluations):
    asked = []

    def value(tau):
        asked.append(tau)
        return -abs(tau - peak)

    found = climb(value, evaluations=evaluations, first=first, ratio=ratio)
    assert len(asked) == evaluations
    assert found == slow(value, evaluations=evaluations, first=first, ratio=ratio)


def test_a_rule_without_a_bound_is_pushed_as_far_as_the_trials_reach():
    rows = torch.randn(6, 4, generator=generator(0))
    # 10 + 20 + ... + 10 * 2^18
    torch.testing.assert_close(line_search(rows, mean, f=2, n=8), -(10.0 * (2**19 - 1)) * rows.mean(dim=0))
    centre = rows.mean(dim=0)
    radius = max(float((rows - centre).norm(dim=1).max()), float(centre.norm()))
    for direction in ("mean", "std"):
        near = line_search(rows, mean, f=2, n=8, direction=direction, reach=100.0) - centre
        assert 50 * radius < float(near.norm()) <= 100 * radius * (1 + 1e-5)


@pytest.mark.parametrize("direction", ["mean", "std"])
def test_the_longer_search_finds_no_less(direction):
    rows = torch.randn(10, 30, generator=generator(1)) + 0.3
    rule = partial(krum, f=3)
    centre = rows.double().mean(dim=0)
    sent = line_search(rows, rule, f=3, n=13, direction=direction)
    damage = (rule(torch.cat([rows, sent.expand(3, -1)])).double() - centre).norm()
    assert search(rows, rule, f=3, n=13).damage >= float(damage) * (1 - 1e-6)


class Server:
    """Answers as the public facts do."""

    def __init__(self, rule, *, pure):
        self.rule, self.pure = rule, pure

    def __call__(self, updates, *, model=None):
        return self.rule(updates)

    def function(self, n):
        return self.rule if self.pure else None


@pytest.mark.parametrize("pure", [True, False])
def test_all_clients_send_the_vector_that_was_found(pure):
    honest, own = torch.randn(9, 12, generator=generator(2)), torch.randn(3, 12, generator=generator(3))
    rule = partial(trimmed_mean, f=3)
    known = facts(knowledge=[Knowledge.AGGREGATION_RULE], aggregate=Server(rule, pure=pure))
    adversary = LineSearch(omniscient=True, direction="std")
    sent = adversary.craft(coalition(own, n=12, honest=honest), known, generator=generator(4))
    expected = line_search(honest, rule, f=3, n=12, direction="std")
    torch.testing.assert_close(sent, expected.expand(3, -1))


def test_without_omniscience_it_imagines_the_others_from_its_own():
    own = torch.randn(4, 12, generator=generator(5)) * 0.1 + 1.0
    known = facts(knowledge=[Knowledge.AGGREGATION_RULE], aggregate=Server(mean, pure=True))
    sent = LineSearch().craft(coalition(own, n=20), known, generator=generator(6))
    assert sent.shape == own.shape
    # against the plain mean it sends the mean reversed, as long as its trials reach
    assert torch.cosine_similarity(sent[0], own.mean(dim=0), dim=0) < -0.95
    one = LineSearch().craft(coalition(own[:1], n=20), known, generator=generator(6))
    torch.testing.assert_close(one, own[:1])
