"""One geometry per round: mixtures, bare products, forms of rules and chains of them."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec import geometry
from fedsec.randomness import generator
from fedsec.round_geometry import (
    RoundGeometry,
    chain,
    coefficients_of,
    coordinatewise,
    is_coordinatewise,
    matrix_of,
    mixes,
    steps_of,
    weighs,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed, "round geometry"), dtype=torch.float64).to(dtype)


def slow_squared_distances(rows):
    exact = rows.double().numpy()
    return np.square(exact[:, None] - exact[None]).sum(axis=2)


def half_mean(U, *, scale=1.0, note=None):
    return U[: len(U) // 2].sum(dim=0) * scale


def half_coefficients(round_, *, scale=1.0):
    return torch.where(torch.arange(round_.n) < round_.n // 2, scale, 0.0).double()


half_mean = weighs(half_coefficients, without=("note",))(half_mean)


@mixes(lambda round_, *, by: torch.eye(round_.n, dtype=torch.float64) * by)
def scaled(U, *, by):
    return U * by


@mixes(lambda round_: torch.full((2, round_.n), 1.0 / round_.n, dtype=torch.float64))
def two_means(U):
    return U.mean(dim=0, keepdim=True).repeat(2, 1)


@coordinatewise
def highest(U):
    return U.max(dim=0).values


@given(n=st.integers(1, 8), m=st.integers(1, 6), seed=st.integers(0, 99), average=st.booleans())
@settings(deadline=None, max_examples=40)
def test_products_of_a_mixture_are_those_of_the_rows_it_makes(n, m, seed, average):
    U = normal(n, 15, seed=seed) + 3.0
    before = U.clone()
    matrix = normal(m, n, seed=seed + 1)
    if average:
        matrix = matrix.abs() / matrix.abs().sum(dim=1, keepdim=True)
    mixture = RoundGeometry(U).mixed(matrix)
    formed = matrix @ U
    direct = RoundGeometry(formed)
    assert (mixture.n, mixture.d) == (m, 15)
    tight = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(mixture.rows, formed)
    torch.testing.assert_close(mixture.raw_gram, direct.raw_gram, **tight)
    torch.testing.assert_close(mixture.squared_distances, direct.squared_distances, **tight)
    torch.testing.assert_close(mixture.norms, direct.norms, **tight)
    torch.testing.assert_close(mixture.cosines, direct.cosines, **tight)
    share = normal(m, seed=seed + 2)
    torch.testing.assert_close(mixture.combine(share), share @ formed, **tight)
    assert torch.equal(U, before)


def test_mixtures_of_mixtures():
    U = normal(6, 9)
    first, second = normal(4, 6, seed=1), normal(3, 4, seed=2)
    twice = RoundGeometry(U).mixed(first).mixed(second)
    torch.testing.assert_close(twice.rows, second @ first @ U)
    torch.testing.assert_close(twice.raw_gram, (second @ first @ U) @ (second @ first @ U).t())


def test_averages_keep_distances_that_a_large_common_part_hides():
    U = (1e3 + 1e-3 * normal(6, 500)).float()
    matrix = torch.full((6, 6), 0.1, dtype=torch.float64) + 0.4 * torch.eye(6, dtype=torch.float64)
    truth = slow_squared_distances(matrix @ U.double())
    np.testing.assert_allclose(RoundGeometry(U).mixed(matrix).squared_distances.numpy(), truth, rtol=1e-7)


@given(n=st.integers(1, 8), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_products_alone_tell_all_but_the_rows(n, seed):
    U = normal(n, 7, seed=seed)
    known, full = RoundGeometry.of_products(U @ U.t()), RoundGeometry(U)
    tight = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(known.squared_distances, full.squared_distances, **tight)
    torch.testing.assert_close(known.norms, full.norms, **tight)
    torch.testing.assert_close(known.cosines, full.cosines, **tight)
    matrix = normal(3, n, seed=seed + 1)
    torch.testing.assert_close(
        known.mixed(matrix).squared_distances, full.mixed(matrix).squared_distances, rtol=1e-8, atol=1e-8
    )
    for ask in (lambda: known.rows, lambda: known.d, lambda: known.combine(torch.ones(n)), lambda: known.centre):
        with pytest.raises(ValueError, match="no rows"):
            ask()


def test_products_about_the_centre_differ_from_those_about_the_origin_by_the_centre():
    U = normal(7, 20)
    round_ = RoundGeometry(U)
    away = U - round_.centre
    torch.testing.assert_close(round_.gram, away @ away.t())
    about = RoundGeometry.of_products(U @ U.t()).gram
    # some row is the centre: its products are 0
    assert int((about.abs().max(dim=1).values < 1e-12).sum()) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: RoundGeometry(torch.tensor([[0.0], [float("nan")]])), r"rows \[1\]"),
        (lambda: RoundGeometry(normal(3, 2)).mixed(normal(2, 4)), r"\(m, 3\)"),
        (lambda: RoundGeometry(normal(3, 2)).mixed(torch.full((2, 3), torch.inf)), "finite"),
        (lambda: RoundGeometry.of_products(normal(3, 2)), r"\(n, n\)"),
        (lambda: RoundGeometry.of_products(torch.full((2, 2), torch.nan)), "NaN"),
        (lambda: chain(), "needs a rule"),
    ],
)
def test_refuses_what_is_none(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_forms_are_found_behind_bound_parameters():
    U = normal(6, 4)
    round_ = RoundGeometry(U)
    rule = partial(partial(half_mean, scale=3.0), scale=2.0)
    torch.testing.assert_close(round_.combine(coefficients_of(rule)(round_)), rule(U))
    assert coefficients_of(partial(half_mean, note="x")) is None
    assert coefficients_of(partial(half_mean, note=None)) is not None
    assert coefficients_of(highest) is None
    assert matrix_of(highest) is None
    assert is_coordinatewise(highest)
    assert is_coordinatewise(partial(highest))
    assert not is_coordinatewise(half_mean)
    torch.testing.assert_close(matrix_of(partial(scaled, by=2.0))(round_) @ U, 2 * U)


def test_a_chain_is_the_rule_after_its_steps():
    U = normal(6, 4)
    steps = (partial(scaled, by=2.0), two_means, partial(half_mean, scale=5.0))
    whole = chain(*steps)
    expected = steps[2](steps[1](steps[0](U)))
    torch.testing.assert_close(whole(U), expected)
    torch.testing.assert_close(coefficients_of(whole)(RoundGeometry(U)) @ U, expected)
    assert steps_of(whole) == steps
    assert steps_of(highest) == (highest,)


def test_a_chain_with_a_step_or_rule_that_is_no_matrix():
    U = normal(6, 4)

    def cut(V):
        return V[1:]

    for steps in ((partial(scaled, by=2.0), cut, half_mean), (partial(scaled, by=2.0), two_means, highest)):
        expected = U
        for step in steps:
            expected = step(expected)
        torch.testing.assert_close(chain(*steps)(U), expected)
        assert coefficients_of(chain(*steps)) is None


def test_the_centre_is_a_row_that_a_minority_cannot_move():
    U = normal(9, 5000, dtype=torch.float32)
    for place in (slice(0, 4), slice(5, 9)):
        attacked = U.clone()
        attacked[place] = 1e18
        centre = geometry.central_row(attacked)
        assert float(centre.norm()) < 100
        # hidden from any regular sample of the coordinates: the norm shows it
        attacked = U.clone()
        attacked[place] = U[4]
        attacked[place, 1::2] = 1e18
        assert float(geometry.central_row(attacked).norm()) < 100


def test_products_of_a_large_noisy_round_are_those_of_float64():
    U = torch.randn(30, 40_000, generator=torch.Generator().manual_seed(1))
    wide = U.double()
    exact = wide @ wide.t()
    scale = exact.diagonal().sqrt()
    away = (RoundGeometry(U).raw_gram - exact) / (scale.unsqueeze(0) * scale.unsqueeze(1))
    assert float(away.abs().max()) < 1e-6
