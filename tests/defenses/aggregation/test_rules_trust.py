"""FLTrust, FoolsGold's coefficients, divide and conquer: values, edge cases, where they fail."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation import divide_and_conquer, fltrust, foolsgold_weights
from fedsec.defenses.aggregation.foolsgold import foolsgold_coefficients
from fedsec.defenses.aggregation.root_trust import fltrust_coefficients, fltrust_weights
from fedsec.defenses.aggregation.spectral import divide_and_conquer_coefficients, divide_and_conquer_kept
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "trust"), dtype=torch.float64)


def slow_fltrust(U, root):
    total, weight = np.zeros(len(root)), 0.0
    for row in U:
        cosine = row @ root / (np.linalg.norm(row) * np.linalg.norm(root))
        if cosine > 0:
            total += cosine * np.linalg.norm(root) / np.linalg.norm(row) * row
            weight += cosine
    return total / weight if weight else total


@given(n=st.integers(1, 8), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_fltrust_equals_the_definition(n, seed):
    U, root = normal(n, 6, seed=seed), normal(6, seed=seed + 1)
    before = U.clone()
    np.testing.assert_allclose(fltrust(U, root).numpy(), slow_fltrust(U.numpy(), root.numpy()), atol=1e-12)
    assert torch.equal(U, before)
    appended = RoundGeometry(torch.cat([U, root.unsqueeze(0)]))
    found = fltrust_coefficients(appended)
    assert float(found[-1]) == 0.0
    torch.testing.assert_close(found[:-1], fltrust_weights(U, root))
    first = RoundGeometry(torch.cat([root.unsqueeze(0), U]))
    torch.testing.assert_close(fltrust_coefficients(first, root=0)[1:], fltrust_weights(U, root))


def test_fltrust_bounds_the_length_and_drops_the_opposite():
    root = normal(20)
    U = torch.cat([root + 0.1 * normal(5, 20, seed=1), -1e6 * root.unsqueeze(0), 1e9 * root.unsqueeze(0)])
    assert float(fltrust_weights(U, root)[5]) == 0.0
    assert float(fltrust(U, root).norm()) <= float(root.norm()) * (1 + 1e-12)


@pytest.mark.parametrize("root", [torch.zeros(3, dtype=torch.float64), -torch.ones(3, dtype=torch.float64)])
def test_without_trust_the_result_is_zero(root):
    assert not fltrust(torch.ones(4, 3, dtype=torch.float64), root).any()


def test_zero_rows_are_not_trusted():
    U = torch.zeros(3, 4)
    U[1] = 1.0
    assert fltrust_weights(U, torch.ones(4)).tolist() == [0.0, 1.0, 0.0]


def test_fltrust_refuses_other_shapes_and_infinity():
    for root in (torch.ones(3), torch.full((4,), torch.inf)):
        with pytest.raises(ValueError, match=r"root_update must be finite, of shape \(4,\)"):
            fltrust(torch.ones(2, 4), root)


def test_coefficients_of_foolsgold_are_its_weights_divided_by_their_sum():
    U = normal(7, 30)
    U[:2] = U[0] + 0.01 * normal(2, 30, seed=1)
    weights = foolsgold_weights(U)
    found = foolsgold_coefficients(RoundGeometry(U))
    torch.testing.assert_close(found, weights / weights.sum())
    assert float(found[:2].max()) == 0.0
    assert not foolsgold_coefficients(RoundGeometry(torch.ones(3, 5))).any()


def slow_projections(U):
    centred = U - U.mean(axis=0)
    return (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2


@given(n=st.integers(3, 12), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None, max_examples=40)
def test_divide_and_conquer_drops_the_largest_projections(n, seed, data):
    f = data.draw(st.integers(0, (n - 1) // 2))
    U = normal(n, 8, seed=seed)
    before = U.clone()
    kept = np.argsort(slow_projections(U.numpy()), kind="stable")[: n - f]
    found = divide_and_conquer(U, f=f, generator=generator(0), sample=None)
    np.testing.assert_allclose(found.numpy(), U.numpy()[kept].mean(axis=0), atol=1e-12)
    torch.testing.assert_close(divide_and_conquer_coefficients(RoundGeometry(U), f=f) @ U, found)
    assert torch.equal(U, before)


def test_divide_and_conquer_finds_colluders_on_a_sample():
    U = normal(20, 5000)
    U[3:7] += 1.0
    kept = divide_and_conquer_kept(U, f=4, generator=generator(0), iterations=3, sample=500)
    assert not kept[3:7].any()
    one = divide_and_conquer(U, f=4, generator=generator(0), iterations=3, sample=500)
    assert torch.equal(one, divide_and_conquer(U, f=4, generator=generator(0), iterations=3, sample=500))
    # who hides outside of the sample is not found
    U = normal(20, 5000)
    U[3:7, 0] += 1e3
    assert divide_and_conquer_kept(U, f=4, generator=generator(0), sample=50)[3:7].any()


def test_divide_and_conquer_keeps_only_rows_never_marked():
    U = normal(9, 4000)
    runs = [divide_and_conquer_kept(U, f=2, generator=g, sample=20) for g in [generator(5)] * 3]
    whole = divide_and_conquer_kept(U, f=2, generator=generator(5), sample=20, iterations=3)
    assert torch.equal(whole, runs[0] & runs[1] & runs[2])
    with pytest.raises(ValueError, match="marked every row"):
        divide_and_conquer(U, f=4, generator=generator(0), sample=5, iterations=60)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"f": 2}, r"n >= 2f \+ 1 = 5"),
        ({"f": 1, "c": 4.0}, "c f < n = 4"),
        ({"f": 1, "iterations": 0}, "iterations >= 1"),
        ({"f": 1, "sample": 0}, "sample >= 1"),
    ],
)
def test_divide_and_conquer_states_its_bounds(given_, words):
    with pytest.raises(ValueError, match=words):
        divide_and_conquer(normal(4, 3), generator=generator(0), **given_)
