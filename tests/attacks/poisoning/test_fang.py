"""The attacks of Fang et al. against a slow simulation, the interval bounds of the paper, and the rules they aim at."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning import fang_krum, fang_trim
from fedsec.attacks.poisoning.fang import FangKrum, FangTrim
from fedsec.defenses.aggregation import coordinate_median, krum, trimmed_mean
from fedsec.randomness import generator

from .coalitions import coalition, facts


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "fang"))


def slow_krum(rows, neighbours):
    """Index that Krum takes, row by row in float64."""
    scores = []
    for i, row in enumerate(rows):
        others = sorted(float((row - other).square().sum()) for j, other in enumerate(rows) if j != i)
        scores.append(sum(others[:neighbours]))
    return scores.index(min(scores))


def slow_attack(H, f, *, signs, copies, threshold=1e-5):
    """The paper's search with the rows themselves: lambda and whether Krum took it."""
    h, d = H.shape
    nearest = [sorted(float((a - b).norm()) for j, b in enumerate(H) if j != i)[: h - 2] for i, a in enumerate(H)]
    bound = min(map(sum, nearest)) / (max(h - copies - 1, 1) * math.sqrt(d))
    bound += max(float(row.norm()) for row in H) / math.sqrt(d)
    while bound >= threshold:
        bad = -bound * signs
        if slow_krum([*H, *[bad] * copies], h - 2) >= h:
            return bound, True
        bound /= 2
    return bound, False


@given(h=st.integers(5, 10), d=st.integers(2, 20), seed=st.integers(0, 99), common=st.floats(0.0, 3.0))
@settings(deadline=None, max_examples=25)
def test_it_is_the_papers_search(h, d, seed, common):
    H = normal(h, d, seed=seed).double() + common
    f = min(2, h - 3)
    signs = H[slow_krum(list(H), max(h - f - 2, 1))].sign()
    strength, _ = slow_attack(H, f, signs=signs, copies=f)
    torch.testing.assert_close(fang_krum(H, f=f, n=h + f), -strength * signs)


def test_krum_takes_it_and_walks_uphill():
    H = normal(14, 400, seed=1) + 0.5
    bad = fang_krum(H, f=6, n=20)
    taken = krum(torch.cat([H, bad.expand(6, -1)]), f=6)
    assert torch.equal(taken, bad)
    assert float(taken @ H.mean(dim=0)) < 0


def test_from_its_own_updates_it_adds_copies_until_one_is_taken():
    H = normal(4, 30).double() + 1.0
    signs = H.mean(dim=0).sign()
    for copies in range(1, 5):
        strength, taken = slow_attack(H, 4, signs=signs, copies=copies)
        if taken:
            break
    found = fang_krum(H, f=4, n=20, direction="mean", partial=True)
    torch.testing.assert_close(found, -strength * signs)


def test_where_krum_takes_nothing_it_ends_below_the_threshold():
    H = 100.0 + 1e-6 * normal(12, 30).double()
    bad = fang_krum(H, f=1, n=13, threshold=0.5)
    assert 0.25 <= float(bad.abs().max()) < 0.5


@pytest.mark.parametrize(
    ("h", "f", "n", "words"),
    [(8, 3, 8, "n >= 2f"), (5, 3, 12, "h >= f"), (2, 1, 9, "n >= 3 rows")],
)
def test_the_bounds_of_krum(h, f, n, words):
    with pytest.raises(ValueError, match=words):
        fang_krum(normal(h, 4), f=f, n=n)


@given(h=st.integers(1, 8), d=st.integers(1, 30), seed=st.integers(0, 99), b=st.floats(1.1, 4.0))
@settings(deadline=None, max_examples=25)
def test_trim_draws_from_the_papers_intervals(h, d, seed, b):
    H = normal(h, d, seed=seed).double() + 0.5 * normal(d, seed=seed + 500)
    low, high, falls = H.min(dim=0).values, H.max(dim=0).values, H.mean(dim=0) < 0
    for random in (None, generator(seed)):
        bad = fang_trim(H, f=1, n=h + 1, b=b, generator=random)
        for j in range(d):
            if falls[j]:
                ends = sorted((float(high[j]), float(high[j]) * b if high[j] > 0 else float(high[j]) / b))
            else:
                ends = sorted((float(low[j]), float(low[j]) / b if low[j] > 0 else float(low[j]) * b))
            assert ends[0] - 1e-6 <= float(bad[j]) <= ends[1] + 1e-6


def test_trim_from_its_own_updates_stays_within_three_and_four_deviations():
    H = normal(6, 500)
    bad = fang_trim(H, f=2, n=20, partial=True, generator=generator(0))
    away = (bad - H.mean(dim=0)) / H.std(dim=0)
    assert bool(((away.abs() >= 3 - 1e-4) & (away.abs() <= 4 + 1e-4)).all())
    assert bool((away.sign() == -H.mean(dim=0).sign()).all())


def test_trim_turns_what_the_trimmed_mean_and_the_median_do():
    H = normal(12, 2000, seed=2) + 0.2
    bad = fang_trim(H, f=5, n=17)
    honest = H.mean(dim=0)
    for rule in (lambda U: trimmed_mean(U, f=5), coordinate_median):
        attacked = rule(torch.cat([H, bad.expand(5, -1)]))
        assert float(attacked @ honest) < 0.5 * float(honest @ honest)


def test_guards():
    with pytest.raises(ValueError, match="b must be above 1"):
        fang_trim(normal(3, 3), f=1, n=4, b=1.0)
    with pytest.raises(ValueError, match="threshold"):
        fang_krum(normal(5, 3), f=1, n=6, threshold=0.0)


def test_the_plugins_use_what_they_know():
    own, honest = normal(5, 40), normal(15, 40, seed=1) + 0.4
    view = coalition(own, honest=honest)
    sent = FangKrum().craft(view, facts(), generator=generator(1))
    torch.testing.assert_close(sent[0], fang_krum(own, f=5, n=20, direction="mean", partial=True))
    sent = FangKrum(omniscient=True).craft(view, facts(), generator=generator(1))
    torch.testing.assert_close(sent, fang_krum(honest, f=5, n=20).expand(5, 40))
    sent = FangTrim(omniscient=True).craft(view, facts(), generator=generator(1))
    assert len(torch.unique(sent, dim=0)) == 5
    falls = honest.mean(dim=0) < 0
    assert bool((sent[:, falls] >= honest.max(dim=0).values[falls] - 1e-5).all() or not falls.any())
    assert bool((sent[:, ~falls] <= honest.min(dim=0).values[~falls] + 1e-5).all())


@pytest.mark.parametrize("kind", [FangKrum, FangTrim])
def test_with_too_little_to_go_by_the_clients_send_what_they_have(kind):
    own = normal(1, 6)
    assert torch.equal(kind().craft(coalition(own), facts(), generator=generator(1)), own)


def test_a_majority_counts_as_the_largest_minority_that_krum_allows():
    honest = normal(5, 12) + 1
    sent = FangKrum(omniscient=True).craft(coalition(normal(15, 12), honest=honest), facts(), generator=generator(1))
    torch.testing.assert_close(sent[0], fang_krum(honest, f=2, n=20))
