"""Rules that select rows, against definitions written down slowly: Krum's readings, Bulyan, minimum diameter."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation import (
    bulyan,
    krum,
    krum_scores,
    krum_selection,
    minimum_diameter_averaging,
    multi_krum,
)
from fedsec.defenses.aggregation.bulyan import bulyan_picks
from fedsec.defenses.aggregation.diameter import minimum_diameter_subset
from fedsec.defenses.aggregation.nearest import PRESETS
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "selection"))


def lengths(U):
    exact = U.double().numpy()
    return np.sqrt(np.square(exact[:, None] - exact[None]).sum(axis=2))


READINGS = {
    # neighbours other than itself, power of the distance, rows averaged
    "blanchard17": (lambda n, f: n - f - 2, 2, lambda n, f: n - f),
    "byzfl": (lambda n, f: n - f - 1, 2, lambda n, f: n - f),
    "flpoison": (lambda n, f: n - f - 1, 1, lambda n, f: int(0.2 * n)),
    "calicarpa": (lambda n, f: n - f - 2, 1, lambda n, f: n - f - 2),
    "blades": (lambda n, f: n - f - 2, 4, lambda n, f: 1),
}


@pytest.mark.parametrize("preset", READINGS)
@given(f=st.integers(0, 3), extra=st.integers(0, 3), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_each_preset_is_the_reading_it_names(preset, f, extra, seed):
    n = 2 * f + 5 + extra
    U = normal(n, 6, seed=seed)
    neighbours, power, kept = READINGS[preset]
    D = lengths(U)
    truth = [sum(sorted(D[i, j] ** power for j in range(n) if j != i)[: neighbours(n, f)]) for i in range(n)]
    np.testing.assert_allclose(krum_scores(U, f=f, preset=preset).numpy(), truth, rtol=1e-6)
    order = np.argsort(truth, kind="stable")
    assert krum_selection(U, f=f, preset=preset).tolist() == order[: kept(n, f)].tolist()
    assert torch.equal(krum(U, f=f, preset=preset), U[int(order[0])])


def slow_repeated(D, picks, neighbours):
    left, chosen = list(range(len(D))), []
    for _ in range(picks):
        scores = [sum(sorted(D[i, j] ** 2 for j in left if j != i)[: neighbours(len(left))]) for i in left]
        chosen.append(left.pop(int(np.argmin(scores))))
    return chosen


@given(f=st.integers(0, 3), extra=st.integers(0, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_repeated_krum_scores_anew_after_each_pick(f, extra, seed):
    n = 2 * f + 3 + extra
    U = normal(n, 5, seed=seed)
    truth = slow_repeated(lengths(U), n - 2 * f - 2, lambda left: max(0, left - f - 3))
    assert krum_selection(U, f=f, preset="ndss21").tolist() == truth
    np.testing.assert_allclose(
        multi_krum(U, f=f, preset="ndss21").numpy(), U.double().numpy()[truth].mean(axis=0), rtol=1e-5, atol=1e-6
    )


def slow_bulyan(U, f):
    exact = U.double().numpy()
    n = len(exact)
    picked = slow_repeated(lengths(U), n - 2 * f, lambda left: max(1, left - f - 2))
    result = []
    for column in exact[picked].T:
        middle = np.median(column)
        result.append(np.mean(sorted(column, key=lambda value: (abs(value - middle), value))[: n - 4 * f]))
    return picked, np.array(result)


@given(f=st.integers(0, 3), extra=st.integers(0, 5), seed=st.integers(0, 99), far=st.booleans())
@settings(deadline=None, max_examples=40)
def test_bulyan_equals_the_definition(f, extra, seed, far):
    U = normal(4 * f + 3 + extra, 17, seed=seed)
    if far:
        U[:f] *= 1e4
    picked, truth = slow_bulyan(U, f)
    assert bulyan_picks(RoundGeometry(U), f=f).tolist() == picked
    np.testing.assert_allclose(bulyan(U, f=f).numpy(), truth, rtol=1e-5, atol=1e-6)


def test_bulyan_never_picks_a_row_twice():
    # every subset has its own best row, and the one that wins first must not win again
    assert len(set(bulyan_picks(RoundGeometry(normal(23, 3)), f=5).tolist())) == 13


def slow_minimum_diameter(U, f):
    D = np.round(lengths(U), 9)
    n = len(D)
    return min(itertools.combinations(range(n), n - f), key=lambda rows: (D[np.ix_(rows, rows)].max(), rows))


@given(n=st.integers(1, 10), d=st.integers(1, 3), seed=st.integers(0, 999), grid=st.booleans(), data=st.data())
@settings(deadline=None, max_examples=80)
def test_the_subset_is_the_first_of_smallest_diameter(n, d, seed, grid, data):
    f = data.draw(st.integers(0, (n - 1) // 2))
    U = (1.5 * normal(n, d, seed=seed)).round() if grid else normal(n, d, seed=seed)
    U = U.double()
    truth = slow_minimum_diameter(U, f)
    assert minimum_diameter_subset(RoundGeometry(U), f=f).tolist() == list(truth)
    np.testing.assert_allclose(
        minimum_diameter_averaging(U, f=f).numpy(), U.numpy()[list(truth)].mean(axis=0), rtol=1e-9, atol=1e-12
    )


def test_minimum_diameter_where_the_subsets_cannot_be_listed():
    U = normal(50, 30)
    U[7:17] = 9.0 + 0.5 * normal(10, 30, seed=1)
    kept = minimum_diameter_subset(RoundGeometry(U), f=10).tolist()  # one of 10^10
    assert not set(kept) & set(range(7, 17))


def test_a_tight_group_of_attackers_wins_the_diameter_only_as_a_majority():
    U = normal(9, 4)
    U[:4] = 50.0
    assert float(minimum_diameter_averaging(U, f=4).norm()) < 5.0
    U[:5] = 50.0
    np.testing.assert_allclose(minimum_diameter_averaging(U, f=4).numpy(), 50.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_refuse_below_their_bound(preset):
    least = {"flpoison": 4, "blades": 6, "byzfl": 5}.get(preset, 7)
    krum(normal(least, 3), f=2, preset=preset)
    with pytest.raises(ValueError, match=f"= {least} updates, got n = {least - 1} and f = 2"):
        krum(normal(least - 1, 3), f=2, preset=preset)


def test_unknown_presets_are_named():
    with pytest.raises(ValueError, match="'krum99'; known: blanchard17, byzfl"):
        krum(normal(9, 3), f=2, preset="krum99")
