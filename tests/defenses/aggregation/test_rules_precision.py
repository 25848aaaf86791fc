"""Digits: rows that differ little from each other, rows of very different size, and the precision of the input."""

import numpy as np
import pytest
import torch

from fedsec.defenses.aggregation import bulyan, geometric_median, krum, krum_scores, multi_krum, nearest_neighbor_mixing
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "precision"))


def alike(spread, n=30, d=100_000, seed=0):
    """Rows of norm 15.8 (at d = 1e5) whose distances are ``spread`` of it, graded so that one is most central."""
    base = 0.05 * normal(d, seed=seed)
    grades = torch.linspace(1.0, 1.3, n)[torch.randperm(n, generator=generator(seed, "order"))]
    return base + 0.05 * spread * grades.unsqueeze(1) * normal(n, d, seed=seed + 1)


def direct_scores(U, f):
    n = len(U)
    squares = torch.cdist(U.double(), U.double(), compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    return np.sort(squares, axis=1)[:, 1 : n - f - 1].sum(axis=1)


@pytest.mark.parametrize(("spread", "d"), [(0.003, 100_000), (0.0003, 100_000), (0.00003, 20_000)])
def test_krum_picks_what_float64_picks(spread, d):
    U = alike(spread, d=d)
    truth = direct_scores(U, 6)
    # the trap: the textbook formula in fp32 errs more than the scores differ
    squares = U.square().sum(dim=1)
    naive = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * U @ U.t()
    wrong = naive.sort(dim=1).values[:, 1:23].sum(dim=1).numpy()
    if spread <= 0.0003:
        assert np.abs(wrong / truth - 1).max() > np.sort(truth)[1] / np.sort(truth)[0] - 1
    np.testing.assert_allclose(krum_scores(U, f=6).numpy(), truth, rtol=1e-6)
    assert torch.equal(krum(U, f=6), U[int(truth.argmin())])


@pytest.mark.parametrize("d", [4000, 60_000])  # below and above where products are fp32
def test_near_copies_of_an_attacker_keep_their_distances(d):
    U = normal(20, d)
    U[:8] = 3.0 + 1e-4 * normal(8, d, seed=3)
    exact = U.double().numpy()
    truth = np.square(exact[:8, None] - exact[None, :8]).sum(axis=2)
    np.testing.assert_allclose(RoundGeometry(U).squared_distances.numpy()[:8, :8], truth, rtol=1e-5)


@pytest.mark.parametrize("size", [1e6, 1e15, 1e30])
@pytest.mark.parametrize("d", [300, 90_000])
def test_huge_rows_do_not_hide_how_the_others_lie(size, d):
    U = normal(13, d)
    clean = krum_scores(U[:10], f=2, neighbours=6)
    U[10:] = size * normal(3, d, seed=1)
    np.testing.assert_allclose(krum_scores(U, f=3, neighbours=6)[:10].numpy(), clean.numpy(), rtol=1e-6)
    kept = nearest_neighbor_mixing(U, f=3)
    np.testing.assert_allclose(kept[:10].numpy(), U[:10].mean(dim=0).expand(10, -1).numpy(), atol=1e-5)
    assert float(multi_krum(U, f=3).norm()) < 2.0 * d**0.5
    assert float(geometric_median(U).norm()) < 2.0 * d**0.5
    U[12] = normal(d, seed=4)
    assert float(bulyan(U, f=2).abs().max()) < 10.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rules_keep_the_type(dtype):
    U = normal(11, 50).to(dtype)
    for found in (
        krum(U, f=2),
        multi_krum(U, f=2),
        bulyan(U, f=2),
        geometric_median(U),
        nearest_neighbor_mixing(U, f=2),
    ):
        assert found.dtype == dtype


@pytest.mark.parametrize("size", [1e-25, 1e-12, 1e12, 1e25])
def test_large_rounds_of_any_scale(size):
    U = normal(12, 100_000)
    truth = RoundGeometry(U.double()).squared_distances.numpy()
    found = RoundGeometry(U * size).squared_distances.numpy() / size**2
    np.testing.assert_allclose(found, truth, rtol=1e-5)


@pytest.mark.parametrize("apart", [0.0, 1e-6, 1e-3])
def test_a_large_group_of_near_copies_leaves_the_choice_to_float64(apart):
    U = normal(20, 60_000)
    U[12:] = U[12] + apart * normal(8, 60_000, seed=1)
    assert torch.equal(krum(U, f=4), krum(U.double(), f=4).float())
    np.testing.assert_allclose(multi_krum(U, f=4).numpy(), multi_krum(U.double(), f=4).numpy(), rtol=1e-4, atol=1e-5)
