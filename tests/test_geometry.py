"""Distances, medians and sums against slow float64 truths."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec import geometry
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry
from fedsec.row_products import LONG, row_products


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "geometry"))


def slow_squared_distances(rows):
    exact = rows.double().numpy()
    n = len(exact)
    return np.array([[np.square(exact[i] - exact[j]).sum() for j in range(n)] for i in range(n)])


@given(n=st.integers(1, 12), d=st.integers(1, 40), seed=st.integers(0, 99), shift=st.sampled_from([0.0, 1.0, 1e4]))
@settings(deadline=None, max_examples=40)
def test_distances_equal_direct_differences(n, d, seed, shift):
    rows = normal(n, d, seed=seed) + shift
    fast = geometry.squared_distances(geometry.centred_gram(rows)).numpy()
    np.testing.assert_allclose(fast, slow_squared_distances(rows), rtol=1e-9, atol=1e-12)


def test_distances_of_nearly_equal_weights_are_right():
    base = normal(1, 20_000) * 0.1
    rows = base + 1e-5 * normal(30, 20_000, seed=1)
    fast = geometry.squared_distances(geometry.centred_gram(rows)).numpy()
    np.testing.assert_allclose(fast, slow_squared_distances(rows), rtol=1e-6, atol=1e-15)


def test_one_huge_row_does_not_spoil_the_distances_of_the_others():
    rows = normal(9, 100)
    rows[4] = 1e15
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    fast = geometry.squared_distances(geometry.centred_gram(rows)).numpy()[np.ix_(others, others)]
    np.testing.assert_allclose(fast, slow_squared_distances(rows[others]), rtol=1e-9)


@given(n=st.integers(1, 9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_median_and_trimmed_mean_equal_numpy(n, seed):
    rows = normal(n, 33, seed=seed)
    before = rows.clone()
    exact = rows.double().numpy()
    np.testing.assert_allclose(geometry.coordinate_median(rows).numpy(), np.median(exact, axis=0), rtol=1e-6, atol=1e-9)
    trim = (n - 1) // 2
    truth = np.sort(exact, axis=0)[trim : n - trim].mean(axis=0)
    np.testing.assert_allclose(geometry.trimmed_mean(rows, trim).numpy(), truth, rtol=1e-6, atol=1e-9)
    assert torch.equal(rows, before)


def test_chunks_change_nothing(monkeypatch):
    rows = normal(7, 1000)
    share = torch.rand(7, generator=generator(3), dtype=torch.float64)
    whole = (
        geometry.centred_gram(rows),
        geometry.coordinate_median(rows),
        geometry.combine(rows, share),
        geometry.row_norms(rows, centre=rows[0]),
        geometry.dots(rows, rows[1]),
    )
    monkeypatch.setattr(geometry, "CHUNK", 96)
    parts = (
        geometry.centred_gram(rows),
        geometry.coordinate_median(rows),
        geometry.combine(rows, share),
        geometry.row_norms(rows, centre=rows[0]),
        geometry.dots(rows, rows[1]),
    )
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_cosines_of_known_rows():
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    found = geometry.cosines(geometry.gram(rows))
    expected = torch.tensor(
        [[1, 1, 0, -1, 0], [1, 1, 0, -1, 0], [0, 0, 1, 0, 0], [-1, -1, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.float64
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.zeros(3), "float matrix"),
        (torch.zeros(2, 3, dtype=torch.int64), "float matrix"),
        (torch.zeros(2, 0), "float matrix"),
        (torch.zeros(0, 3), "n >= 1"),
        (torch.tensor([[0.0], [float("nan")]]), r"rows \[1\]"),
        (torch.tensor([[float("inf")], [0.0]]), r"rows \[0\]"),
    ],
)
def test_refuses_what_is_no_finite_matrix(rows, words):
    with pytest.raises(ValueError, match=words):
        geometry.check_rows(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_finite_unless_an_entry_is_not(dtype):
    largest = torch.finfo(dtype).max
    rows = torch.ones(6, 5, dtype=dtype)
    rows[1, 2], rows[2, 0], rows[3, 4] = torch.nan, torch.inf, -torch.inf
    rows[4, :2] = torch.tensor([torch.inf, -torch.inf], dtype=dtype)
    rows[5] = largest  # finite, though the sum of the row is not
    assert geometry.finite_rows(rows).tolist() == [True, False, False, False, False, True]
    assert geometry.finite_rows(rows[:1]).tolist() == [True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_never_changed(dtype):
    rows = normal(7, 300).to(dtype)
    before = rows.clone()
    geometry.centred_gram(rows)
    geometry.gram(rows, centre=rows[1])
    geometry.row_norms(rows)
    geometry.row_norms(rows, centre=rows[1])
    geometry.mean_around_median(rows, 4)
    geometry.trimmed_mean(rows, 2)
    geometry.combine_many(rows, torch.eye(7, dtype=torch.float64))
    geometry.combine(rows, torch.ones(7))
    geometry.finite_rows(rows)
    assert torch.equal(rows, before)


@given(n=st.integers(1, 9), seed=st.integers(0, 99), ties=st.booleans(), huge=st.booleans())
@settings(deadline=None, max_examples=40)
def test_mean_around_median_equals_the_definition(n, seed, ties, huge):
    rows = normal(n, 11, seed=seed)
    rows = (2 * rows).round() if ties else rows
    if huge and n > 2:
        rows[0] = -1e30
    for count in range(1, n + 1):
        truth = []
        for column in rows.double().numpy().T:
            # nearest first; of two at one distance the lower
            order = sorted(column, key=lambda value: (abs(value - np.median(column)), value))
            truth.append(np.mean(order[:count]))
        np.testing.assert_allclose(geometry.mean_around_median(rows, count).numpy(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e25])
def test_norms_of_any_size(size):
    rows = normal(4, 50) * size
    np.testing.assert_allclose(
        geometry.row_norms(rows).numpy(), np.linalg.norm(rows.double().numpy(), axis=1), rtol=1e-6
    )
    np.testing.assert_allclose(
        geometry.row_norms(rows, centre=rows[0]).numpy(),
        np.linalg.norm(rows.double().numpy() - rows[0].double().numpy(), axis=1),
        rtol=1e-6,
    )
    assert float(geometry.row_norms(torch.zeros(1, 3))) == 0.0


def test_a_sum_that_overflows_is_finite_all_the_same():
    rows = torch.full((3, 4), 3e38)
    rows[1, 2] = float("inf")
    rows[2] = -rows[2]
    assert geometry.finite_rows(rows).tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_combinations_keep_the_type(dtype):
    rows, share = normal(5, 40).to(dtype), torch.rand(3, 5, generator=generator(1), dtype=torch.float64)
    found = geometry.combine_many(rows, share)
    assert found.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    np.testing.assert_allclose(
        found.double().numpy(), (share @ rows.double()).numpy(), rtol=tolerance, atol=5 * tolerance
    )


def test_lengths_beyond_fp64_are_refused():
    with pytest.raises(ValueError, match="exceed fp64"):
        geometry.gram(torch.tensor([[1e200, 0.0], [1.0, 2.0]], dtype=torch.float64))


def noisy(n=30, d=geometry.CHUNK * 6 + 5, seed=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def exact_distances(rows):
    wide = rows.double()
    return torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()


def test_products_of_noisy_rows_need_no_centre():
    rows = noisy() + 0.5 * noisy(1, seed=4)
    rows[3] *= 1e6  # one that is far away costs the others nothing
    found = geometry.far_gram(rows)
    assert found is not None
    torch.testing.assert_close(geometry.squared_distances(found), exact_distances(rows), rtol=2e-6, atol=0.0)


@pytest.mark.parametrize("columns", [slice(0, 100), slice(-100, None)])
def test_rows_that_agree_nearly_everywhere_are_left_to_a_centre(columns):
    rows = noisy(1).expand(30, -1).clone()
    rows[:, columns] += noisy()[:, columns]
    assert geometry.far_gram(rows) is None
    found = RoundGeometry(rows).squared_distances
    torch.testing.assert_close(found, exact_distances(rows), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1e-15, 1e20])
def test_rows_whose_squares_leave_fp32_are_left_to_a_centre(value):
    rows = noisy(35)
    assert geometry.coarse(rows)
    rows[4] = value
    assert geometry.far_gram(rows) is None
    torch.testing.assert_close(RoundGeometry(rows).squared_distances, exact_distances(rows), rtol=1e-5, atol=1e-3)


def test_copies_of_one_update_stay_copies():
    rows = noisy(35)
    rows[5:9] = rows[4]
    found = RoundGeometry(rows).squared_distances
    assert float(found[4:9, 4:9].max()) == 0.0


@given(n=st.integers(1, 17), d=st.integers(1, 3000), start=st.integers(0, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_compiled_products_are_those_of_double_precision(n, d, start, seed):
    rows = normal(n, d, seed=seed).float()
    start = min(start, d)
    found = row_products(rows, start=start)
    wide = rows[:, start:].double()
    np.testing.assert_allclose(found.numpy(), (wide @ wide.t()).numpy(), atol=3e-6 * math.sqrt(d), rtol=1e-6)
    assert torch.equal(found, found.t())


def test_compiled_products_do_not_depend_on_threads():
    rows = noisy(11, 3 * LONG + 7)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = row_products(rows)
        torch.set_num_threads(3)
        assert torch.equal(row_products(rows), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_have_no_finite_square(value):
    rows = noisy(7, 2000)
    rows[5, 1234] = value
    assert (~torch.isfinite(row_products(rows).diagonal())).nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize(
    "rows", [torch.zeros(2, 6, dtype=torch.float64), torch.zeros(6, 2).t(), torch.zeros(2, 8)[:, ::2]]
)
def test_other_memory_is_refused_by_the_compiled_products(rows):
    with pytest.raises(ValueError, match="contiguous fp32"):
        row_products(rows)


@pytest.mark.parametrize("ask", ["gram", "norms", "rows", "squared_distances", "raw_gram", "cosines", "centre"])
def test_a_large_round_that_is_not_finite_is_refused_whatever_is_asked(ask):
    rows = noisy(35)
    rows[4, 77] = torch.nan
    with pytest.raises(ValueError, match=r"rows \[4\] hold NaN"):
        getattr(RoundGeometry(rows), ask)
    with pytest.raises(ValueError, match=r"rows \[4\] hold NaN"):
        RoundGeometry(rows).mixed(torch.eye(35)).combine(torch.ones(35))
