"""The product with the L-BFGS matrix: against the recursion, and on functions whose Hessian is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.detection import hessian_product
from fedsec.randomness import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "curvature"), dtype=torch.float64)


def bowl(d, seed=0):
    """A positive definite Hessian."""
    root = normal(d, d, seed=seed)
    return root @ root.t() / d + 0.5 * torch.eye(d, dtype=torch.float64)


def recursion(steps, changes):
    """The BFGS update, pair by pair, from ``sigma I``."""
    sigma = (changes[-1] @ steps[-1]) / (steps[-1] @ steps[-1])
    matrix = sigma * torch.eye(steps.shape[1], dtype=torch.float64)
    for s, y in zip(steps, changes, strict=True):
        bent = matrix @ s
        matrix = matrix - torch.outer(bent, bent) / (s @ bent) + torch.outer(y, y) / (y @ s)
    return matrix


@given(seed=st.integers(0, 99), m=st.integers(1, 6), d=st.integers(7, 20))
@settings(deadline=None, max_examples=25)
def test_equals_the_recursion(seed, m, d):
    steps = normal(m, d, seed=seed)
    changes = steps @ bowl(d, seed=seed + 1)
    vectors = normal(3, d, seed=seed + 2)
    expected = vectors @ recursion(steps, changes)
    torch.testing.assert_close(hessian_product(steps, changes, vectors), expected, rtol=1e-7, atol=1e-7)


def test_the_newest_pair_holds_exactly_and_a_full_set_gives_the_hessian_back():
    hessian = bowl(6, seed=3)
    steps = normal(6, 6, seed=4)
    torch.testing.assert_close(
        hessian_product(steps, steps @ hessian, steps[-1:])[0], steps[-1] @ hessian, rtol=1e-8, atol=1e-8
    )
    conjugate = torch.linalg.eigh(hessian).eigenvectors.t()  # along conjugate directions no pair undoes another
    vectors = normal(2, 6, seed=5)
    found = hessian_product(conjugate, conjugate @ hessian, vectors)
    torch.testing.assert_close(found, vectors @ hessian, rtol=1e-8, atol=1e-8)


def test_pairs_that_repeat_are_no_obstacle():
    hessian, step = bowl(6), normal(1, 6)
    steps = step.repeat(4, 1)
    found = hessian_product(steps, steps @ hessian, step)
    torch.testing.assert_close(found, step @ hessian, rtol=1e-6, atol=1e-6)


def test_keeps_the_dtype_and_the_pairs():
    steps, hessian = normal(3, 8).float(), bowl(8).float()
    changes = steps @ hessian
    before = steps.clone(), changes.clone()
    assert hessian_product(steps, changes, normal(2, 8).float()).dtype == torch.float32
    assert torch.equal(steps, before[0])
    assert torch.equal(changes, before[1])


def test_refuses_what_has_no_curvature():
    with pytest.raises(ValueError, match="pairs"):
        hessian_product(normal(0, 4), normal(0, 4), normal(1, 4))
    with pytest.raises(ValueError, match="pairs"):
        hessian_product(normal(2, 4), normal(2, 4), normal(1, 5))
    with pytest.raises(ValueError, match="newest step is zero"):
        hessian_product(torch.zeros(2, 4), normal(2, 4).float(), normal(1, 4).float())
