"""Robust rules against slow float64 truths, their invariances, their breakdown points and published values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation import (
    centered_clipping,
    coordinate_median,
    geometric_median,
    krum,
    krum_scores,
    krum_selection,
    mean,
    multi_krum,
    trimmed_mean,
)
from fedsec.randomness import generator

EXAMPLE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
ROBUST = {
    "median": lambda U, f: coordinate_median(U),
    "trimmed mean": lambda U, f: trimmed_mean(U, f=f),
    "krum": lambda U, f: krum(U, f=f),
    "multi-krum": lambda U, f: multi_krum(U, f=f),
    "geometric median": lambda U, f: geometric_median(U),
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "rules"))


def slow_krum_scores(U, f):
    exact = U.double().numpy()
    n = len(exact)
    scores = []
    for i in range(n):
        others = sorted(np.square(exact[i] - exact[j]).sum() for j in range(n) if j != i)
        scores.append(sum(others[: n - f - 2]))
    return np.array(scores)


sizes = st.tuples(st.integers(0, 3), st.integers(0, 4)).map(lambda t: (t[0], 2 * t[0] + 3 + t[1]))


@given(size=sizes, d=st.integers(1, 20), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_krum_scores_equal_the_definition(size, d, seed):
    f, n = size
    U = normal(n, d, seed=seed)
    before = U.clone()
    truth = slow_krum_scores(U, f)
    np.testing.assert_allclose(krum_scores(U, f=f).numpy(), truth, rtol=1e-9)
    assert torch.equal(U, before)
    chosen = krum_selection(U, f=f)
    np.testing.assert_allclose(np.sort(truth)[: n - f], truth[chosen.numpy()], rtol=1e-9)
    np.testing.assert_allclose(
        multi_krum(U, f=f).numpy(), U.double().numpy()[chosen.numpy()].mean(axis=0), rtol=1e-5, atol=1e-6
    )


def test_the_number_of_neighbours_decides_who_wins():
    # with the paper's n - f - 2 = 3 neighbours the loose four win; with one fewer, the tight three
    U = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.6], [10.2], [10.8]])
    assert float(krum(U, f=2)) == pytest.approx(9.6)
    assert float(krum(U, f=2, neighbours=2)) == pytest.approx(0.1)


def test_weights_of_the_mean():
    np.testing.assert_allclose(mean(EXAMPLE, torch.tensor([1.0, 0.0, 3.0])).numpy(), [5.5, 6.5, 7.5])
    for bad in (torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0, 1.0]), torch.zeros(3)):
        with pytest.raises(ValueError, match="weights"):
            mean(EXAMPLE, bad)


def test_published_values():
    for found in (mean(EXAMPLE), coordinate_median(EXAMPLE), trimmed_mean(EXAMPLE, f=1), geometric_median(EXAMPLE)):
        np.testing.assert_allclose(found.numpy(), [4.0, 5.0, 6.0], atol=1e-5)
    np.testing.assert_allclose(multi_krum(EXAMPLE, f=0).numpy(), [4.0, 5.0, 6.0], atol=1e-6)
    np.testing.assert_allclose(krum(EXAMPLE, f=0).numpy(), [1.0, 2.0, 3.0])  # a tie: the first row
    # a clipping radius beyond every row is the mean; one below it is the mean of rescaled rows
    np.testing.assert_allclose(centered_clipping(EXAMPLE, tau=100.0).numpy(), [4.0, 5.0, 6.0], atol=1e-6)
    lengths = EXAMPLE.double().norm(dim=1, keepdim=True)
    clipped = (EXAMPLE.double() * (5.0 / lengths).clamp_max(1.0)).mean(dim=0)
    np.testing.assert_allclose(centered_clipping(EXAMPLE, tau=5.0).numpy(), clipped.numpy(), rtol=1e-6)


def test_median_of_an_even_number_is_the_middle():
    np.testing.assert_allclose(coordinate_median(torch.tensor([[1.0], [2.0], [10.0], [3.0]])).numpy(), [2.5])


def test_geometric_median_of_points_on_a_line_is_their_median():
    U = torch.tensor([[10.0], [1.0], [2.0], [3.0], [4.0]])
    assert float(geometric_median(U)) == pytest.approx(3.0, abs=1e-4)


@given(n=st.integers(3, 12), seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 1.0, 1e4]))
@settings(deadline=None, max_examples=30)
def test_geometric_median_is_optimal(n, seed, scale):
    U = normal(n, 6, seed=seed) * scale
    z = geometric_median(U).double()
    gaps = U.double() - z
    lengths = gaps.norm(dim=1)
    if float(lengths.min()) > 1e-4 * scale:  # not at a data point: the directions cancel
        assert float((gaps / lengths.unsqueeze(1)).sum(dim=0).norm()) < 1e-3
    best = float(lengths.sum())
    for step in normal(20, 6, seed=seed + 1).double() * 0.05 * scale:
        assert best <= float((gaps - step).norm(dim=1).sum()) + 1e-9 * scale


def test_geometric_median_at_a_majority_point():
    U = torch.cat([torch.ones(4, 3), 5 * normal(3, 3)])
    np.testing.assert_allclose(geometric_median(U).numpy(), np.ones(3), atol=1e-6)


@pytest.mark.parametrize("rule", ROBUST)
@given(seed=st.integers(0, 50))
@settings(deadline=None, max_examples=8)
def test_permutation_translation_and_scale(rule, seed):
    apply = ROBUST[rule]
    U = normal(9, 12, seed=seed)
    result = apply(U, 2)
    order = torch.randperm(9, generator=generator(seed))
    torch.testing.assert_close(apply(U[order], 2), result, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(apply(U + 3.0, 2), result + 3.0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(apply(U * 1000.0, 2), result * 1000.0, rtol=1e-4, atol=1e-2)


def test_centered_clipping_moves_with_its_start():
    U, start = normal(8, 5), normal(5, seed=2)
    shift = torch.full((5,), 7.0)
    one = centered_clipping(U, tau=1.0, iterations=3, start=start)
    other = centered_clipping(U + shift, tau=1.0, iterations=3, start=start + shift)
    torch.testing.assert_close(other, one + shift, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e30])
@pytest.mark.parametrize("rule", ROBUST)
def test_f_far_rows_do_not_move_it_and_too_many_do(rule, size):
    apply = ROBUST[rule]
    U = normal(11, 20)
    attacked = U.clone()
    attacked[:4] = size
    kept = apply(attacked, 4)
    assert float(kept.norm()) < 10.0
    assert float(U[4:].min()) - 1e-5 <= float(kept.min())
    assert float(kept.max()) <= float(U[4:].max()) + 1e-5
    attacked[:6] = size  # now they are the majority
    assert float(apply(attacked, 4).norm()) > 100.0


def test_one_row_moves_the_mean_anywhere():
    U = normal(11, 20)
    U[0] = 1e9
    assert float(mean(U).norm()) > 1e8


def test_clipping_bounds_what_f_rows_can_do():
    U = normal(10, 20) * 0.1
    attacked = U.clone()
    attacked[:3] = 1e20
    moved = centered_clipping(attacked, tau=1.0) - centered_clipping(U, tau=1.0)
    assert float(moved.norm()) <= 2 * 3 / 10 * 1.0 + 1e-6


def test_inputs_are_never_changed():
    U = normal(9, 12)
    before = U.clone()
    for apply in ROBUST.values():
        apply(U, 2)
    mean(U)
    start = torch.zeros(12)
    centered_clipping(U, tau=0.1, iterations=4, start=start)
    assert torch.equal(U, before)
    assert not start.any()
    single = normal(1, 12)
    kept = single.clone()
    coordinate_median(single).zero_()
    krum(normal(3, 12), f=0).zero_()
    assert torch.equal(single, kept)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: krum(torch.zeros(6, 2), f=2), r"n >= 2f \+ 3 = 7 updates, got n = 6 and f = 2"),
        (lambda: multi_krum(torch.zeros(4, 2), f=1), r"2f \+ 3 = 5"),
        (lambda: multi_krum(torch.zeros(7, 2), f=2, m=6), "m <= n - f = 5"),
        (lambda: krum(torch.zeros(7, 2), f=-1), "f >= 0"),
        (lambda: krum_scores(torch.zeros(7, 2), f=1, neighbours=7), "1..6"),
        (lambda: trimmed_mean(torch.zeros(4, 2), f=2), r"n >= 2f \+ 1 = 5"),
        (lambda: centered_clipping(torch.zeros(4, 2), tau=0.0), "tau > 0"),
        (lambda: centered_clipping(torch.zeros(4, 2), tau=1.0, start=torch.zeros(3)), r"shape \(2,\)"),
        (lambda: coordinate_median(torch.tensor([[math.nan], [1.0]])), "NaN"),
        (lambda: geometric_median(torch.tensor([[math.inf], [1.0]])), "NaN or infinity"),
    ],
)
def test_guards_state_the_bound(call, words):
    with pytest.raises(ValueError, match=words):
        call()
