"""Pre-aggregators: neighbours, buckets, clipping; values, matrices, bounds."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation import (
    adaptive_clipping,
    bucketing,
    clip_norms,
    coordinate_median,
    krum,
    multi_krum,
    nearest_neighbor_mixing,
    trimmed_mean,
)
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry, chain, coefficients_of, matrix_of


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "mixing"), dtype=torch.float64)


def slow_mixing(U, f):
    exact = U.double().numpy()
    rows = []
    for i in range(len(exact)):
        order = sorted(range(len(exact)), key=lambda j: (j != i, np.square(exact[i] - exact[j]).sum().round(12), j))
        rows.append(exact[order[: len(exact) - f]].mean(axis=0))
    return np.array(rows)


@given(f=st.integers(0, 4), extra=st.integers(1, 4), seed=st.integers(0, 99), grid=st.booleans())
@settings(deadline=None, max_examples=40)
def test_neighbours_are_averaged(f, extra, seed, grid):
    U = normal(2 * f + extra, 5, seed=seed)
    U = U.round() if grid else U
    before = U.clone()
    np.testing.assert_allclose(nearest_neighbor_mixing(U, f=f).numpy(), slow_mixing(U, f), atol=1e-12)
    assert torch.equal(U, before)


def test_identical_rows_count_themselves_first():
    U = torch.zeros(5, 2)
    U[4] = 1.0
    np.testing.assert_allclose(nearest_neighbor_mixing(U, f=2)[:, 0].numpy(), [0, 0, 0, 0, 1 / 3], rtol=1e-6)


@given(n=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None, max_examples=40)
def test_buckets_hold_each_row_once(n, seed, data):
    s = data.draw(st.integers(1, n))
    U = normal(n, 3, seed=seed)
    found = bucketing(U, s=s, generator=generator(seed))
    assert found.shape == (-(-n // s), 3)
    matrix = matrix_of(partial(bucketing, s=s, generator=generator(seed)))(RoundGeometry(U))
    torch.testing.assert_close(found, matrix @ U)
    counts = (matrix > 0).sum(dim=1)
    assert counts[:-1].tolist() == [s] * (len(found) - 1)
    assert (matrix > 0).sum(dim=0).tolist() == [1] * n
    np.testing.assert_allclose((counts.double() / n @ found).numpy(), U.mean(dim=0).numpy(), atol=1e-6)


def test_buckets_are_drawn_anew():
    U, chance = normal(20, 3), generator(0)
    assert not torch.equal(bucketing(U, s=2, generator=chance), bucketing(U, s=2, generator=chance))
    assert torch.equal(bucketing(U, s=2, generator=generator(1)), bucketing(U, s=2, generator=generator(1)))


@given(n=st.integers(1, 10), seed=st.integers(0, 99), c=st.floats(0.01, 10.0))
@settings(deadline=None, max_examples=30)
def test_clipping_shortens_the_long(n, seed, c):
    U = normal(n, 6, seed=seed)
    U[0] = 0.0
    before = U.clone()
    found = clip_norms(U, c=c)
    for row, clipped in zip(U, found, strict=True):
        length = float(row.norm())
        torch.testing.assert_close(clipped, row if length <= c else row * (c / length))
    assert torch.equal(U, before)


@given(n=st.integers(1, 14), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None, max_examples=40)
def test_adaptive_clipping_takes_the_next_norm(n, seed, data):
    f = data.draw(st.integers(0, (n - 1) // 2))
    U = normal(n, 6, seed=seed)
    before = U.clone()
    count = (2 * f * (n - f)) // n
    norms = U.norm(dim=1)
    order = norms.argsort(descending=True)
    truth = U.clone()
    for row in order[:count]:
        truth[row] *= norms[order[count]] / norms[row]
    torch.testing.assert_close(adaptive_clipping(U, f=f), truth)
    assert torch.equal(U, before)


RULES = {
    "krum": partial(krum, f=2),
    "multi-krum": partial(multi_krum, f=2),
    "median": coordinate_median,
    "trimmed mean": partial(trimmed_mean, f=2),
}
STEPS = {
    "mixing": partial(nearest_neighbor_mixing, f=2),
    "clipping": partial(clip_norms, c=2.0),
    "adaptive clipping": partial(adaptive_clipping, f=2),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("step", STEPS)
def test_chains_form_no_rows_and_agree(step, rule):
    U = normal(11, 30)
    U[:2] = 20.0
    whole = chain(STEPS["adaptive clipping"], STEPS[step], RULES[rule])
    expected = RULES[rule](STEPS[step](STEPS["adaptive clipping"](U)))
    torch.testing.assert_close(whole(U), expected)
    form = coefficients_of(whole)
    assert (form is None) == (rule in {"median", "trimmed mean"})
    if form is not None:
        torch.testing.assert_close(form(RoundGeometry(U)) @ U, expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nearest_neighbor_mixing(torch.zeros(4, 2), f=2), r"n >= 2f \+ 1 = 5"),
        (lambda: adaptive_clipping(torch.zeros(4, 2), f=2), r"n >= 2f \+ 1 = 5"),
        (lambda: clip_norms(torch.zeros(4, 2), c=0.0), "positive"),
        (lambda: bucketing(torch.zeros(4, 2), s=0, generator=generator(0)), "1 <= s <= n = 4"),
        (lambda: bucketing(torch.zeros(4, 2), s=5, generator=generator(0)), "1 <= s <= n = 4"),
        (lambda: nearest_neighbor_mixing(torch.tensor([[0.0], [torch.nan]]), f=0), r"rows \[1\]"),
    ],
)
def test_guards_state_the_bound(call, words):
    with pytest.raises(ValueError, match=words):
        call()
