"""What holds for every rule: invariances, inputs left alone, bounds, ties, identical rows, rows that are not finite."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation import (
    adaptive_clipping,
    bucketing,
    bulyan,
    centered_clipping,
    clip_norms,
    coordinate_median,
    divide_and_conquer,
    fltrust,
    foolsgold_weights,
    geometric_median,
    krum,
    mean,
    mean_around_median,
    minimum_diameter_averaging,
    multi_krum,
    nearest_neighbor_mixing,
    trimmed_mean,
)
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry, coefficients_of, is_coordinatewise, matrix_of

# name: rule, least n for f = 2
RULES = {
    "mean": (lambda f: mean, 1),
    "median": (lambda f: coordinate_median, 1),
    "trimmed mean": (lambda f: partial(trimmed_mean, f=f), 5),
    "mean around median": (lambda f: partial(mean_around_median, f=f), 5),
    "krum": (lambda f: partial(krum, f=f), 7),
    "multi-krum": (lambda f: partial(multi_krum, f=f), 7),
    "bulyan": (lambda f: partial(bulyan, f=f), 11),
    "geometric median": (lambda f: geometric_median, 1),
    "minimum diameter": (lambda f: partial(minimum_diameter_averaging, f=f), 5),
    "divide and conquer": (lambda f: partial(divide_and_conquer, f=f, sample=None, generator=generator(0)), 5),
    "centered clipping": (lambda f: partial(centered_clipping, tau=1.0, iterations=2), 1),
    "fltrust": (lambda f: lambda U: fltrust(U, torch.ones(U.shape[1], dtype=U.dtype)), 1),
}
STEPS = {
    "mixing": (lambda f: partial(nearest_neighbor_mixing, f=f), 5),
    "clipping": (lambda f: partial(clip_norms, c=1.5), 1),
    "adaptive clipping": (lambda f: partial(adaptive_clipping, f=f), 5),
    "foolsgold": (lambda f: foolsgold_weights, 1),
}
BUCKETS = {"bucketing": (lambda f: partial(bucketing, s=2, generator=generator(0)), 2)}
# two subsets often share one diameter, and of two nearest neighbours each is the other's: the first row wins the tie
ORDERS = set(RULES) - {"minimum diameter", "bulyan"}
ROTATES = set(RULES) - {"median", "trimmed mean", "mean around median", "bulyan", "fltrust"}
SHIFTS = set(RULES) - {"centered clipping", "fltrust"}
SCALES = set(RULES) - {"centered clipping", "fltrust"}
close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-7)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "properties"), dtype=torch.float64)


def turned(d, seed):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


@pytest.mark.parametrize("name", RULES)
@given(extra=st.integers(0, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=6)
def test_order_place_size_and_direction(name, extra, seed):
    make, least = RULES[name]
    apply = make(2)
    U = normal(least + extra + 2, 7, seed=seed)
    result = apply(U)
    if name in ORDERS:
        close(apply(U[torch.randperm(len(U), generator=generator(seed))]), result)
    if name in SHIFTS:
        shift = normal(7, seed=seed + 1)
        close(apply(U + shift), result + shift)
    if name in SCALES:
        close(apply(U * 1e-3), result * 1e-3)
    if name in ROTATES:
        turn = turned(7, seed)
        close(apply(U @ turn), result @ turn)


@pytest.mark.parametrize("name", STEPS)
@given(seed=st.integers(0, 99))
@settings(deadline=None, max_examples=6)
def test_steps_move_with_the_order_and_the_direction(name, seed):
    apply = STEPS[name][0](2)
    U = normal(8, 7, seed=seed)
    order, turn = torch.randperm(8, generator=generator(seed)), turned(7, seed)
    result = apply(U)
    close(apply(U[order]), result[order])
    close(apply(U @ turn), result if name == "foolsgold" else result @ turn)


EVERY = RULES | STEPS | BUCKETS


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_stay_and_results_are_new(name, dtype):
    make, least = EVERY[name]
    U = normal(least + 2, 9).to(dtype)
    before = U.clone()
    result = make(2)(U)
    assert torch.equal(U, before)
    assert result.dtype == (torch.float64 if name == "foolsgold" else dtype)
    result.zero_()
    assert torch.equal(U, before)


@pytest.mark.parametrize("name", EVERY)
def test_smallest_n_works_and_one_less_names_the_bound(name):
    make, least = EVERY[name]
    assert bool(torch.isfinite(make(2)(normal(least, 5))).all())
    words = (
        "n >= 1" if least == 1 else "s <= n = 1" if name == "bucketing" else f"= {least} updates, got n = {least - 1}"
    )
    with pytest.raises(ValueError, match=words):
        make(2)(normal(least, 5)[: least - 1])


@pytest.mark.parametrize("name", EVERY)
def test_with_f_zero_one_row_or_the_least(name):
    make, _ = EVERY[name]
    n = {"krum": 3, "multi-krum": 3, "bulyan": 3, "bucketing": 2}.get(name, 1)
    assert bool(torch.isfinite(make(0)(normal(n, 5))).all())


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"foolsgold", "clipping", "centered clipping", "fltrust"}))
def test_identical_rows_give_that_row(name):
    make, least = EVERY[name]
    row = normal(6)
    result = make(2)(row.repeat(least + 1, 1))
    close(result, row.expand_as(result))


@pytest.mark.parametrize("name", EVERY)
def test_ties_and_zeros_are_no_trouble(name):
    make, least = EVERY[name]
    n = max(least, 4)
    for U in (torch.zeros(n, 3), torch.eye(n), torch.tensor([[1.0], [-1.0]]).repeat(n, 1)):
        assert bool(torch.isfinite(make(2)(U)).all())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_named(name, bad):
    make, least = EVERY[name]
    U = normal(least + 3, 5)
    U[1, 2], U[3, 0] = bad, bad
    with pytest.raises(ValueError, match=r"rows \[1, 3\] hold NaN or infinity"):
        make(2)(U)


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"foolsgold"}))
@given(seed=st.integers(0, 99))
@settings(deadline=None, max_examples=5)
def test_forms_say_what_the_rule_does(name, seed):
    make, least = EVERY[name]
    rule = make(2)
    U = normal(least + 2, 9, seed=seed)
    weights = coefficients_of(rule)
    matrix = matrix_of(rule)
    if weights is not None:
        found = weights(RoundGeometry(U))
        assert found.dtype == torch.float64
        close(found @ U, rule(U))
        close(weights(RoundGeometry.of_products(U @ U.t())) @ U, rule(U))
    elif matrix is not None:
        fresh = matrix_of(make(2))(RoundGeometry(U))  # buckets are drawn from a generator
        close(fresh @ U, make(2)(U))
    elif is_coordinatewise(rule):
        for j in range(0, 9, 4):
            close(rule(U[:, j : j + 1])[0], rule(U)[j])
    else:
        assert name in {"bulyan", "divide and conquer", "fltrust"}


def test_centered_clipping_about_a_row_has_coefficients():
    U, start = normal(6, 5), normal(5, seed=1)
    round_ = RoundGeometry(torch.cat([U, start.unsqueeze(0)]))
    rule = partial(centered_clipping, tau=0.7, iterations=3)
    assert coefficients_of(partial(rule, start=start)) is None
    found = round_.combine(coefficients_of(rule)(round_, start_row=6))
    close(found, rule(U, start=start))
