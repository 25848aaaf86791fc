"""Malicious vectors against slow searches, published values and what the papers promise."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning import (
    alie,
    alie_z,
    fang_krum,
    fang_trim,
    gaussian,
    ipm,
    mimic,
    min_max,
    min_sum,
    sign_flip,
    tailored,
)
from fedsec.attacks.poisoning.vectors import deviation_of
from fedsec.defenses.aggregation import coordinate_median
from fedsec.randomness import generator

EXAMPLE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
DIRECTIONS = ("std", "unit", "sign")
BYZFL = json.loads((Path(__file__).parent / "byzfl_values.json").read_text())["cases"]
EVERY = {
    "sign_flip": sign_flip,
    "ipm": ipm,
    "alie": lambda H, f, n: alie(H, f=f, n=n, z=1.0),
    "mimic": mimic,
    "min_max": min_max,
    "min_sum": min_sum,
    "fang_krum": fang_krum,
    "fang_trim": fang_trim,
    "tailored": lambda H, f, n: tailored(H, coordinate_median, f=f, n=n),
    "gaussian": lambda H, f, n: gaussian(H, f=f, n=n, generator=generator(0)),
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "vectors"))


def push(H, direction):
    mean = H.mean(dim=0)
    return {"std": -H.std(dim=0), "unit": -mean / mean.norm(), "sign": -mean.sign()}[direction]


def searched(H, direction, allowed):
    """The papers' search: the largest gamma that is allowed, by bisection in float64."""
    H = H.double()
    mean, p = H.mean(dim=0), push(H, direction)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(mean + middle * p, H) else (low, middle)
    return mean + low * p


def inside_max(x, H):
    return float((H - x).norm(dim=1).max()) <= float(torch.pdist(H).max())


def inside_sum(x, H):
    worst = max(float((H - row).square().sum()) for row in H)
    return float((H - x).square().sum()) <= worst


def test_published_values():
    np.testing.assert_allclose(sign_flip(EXAMPLE, f=1, n=4).numpy(), [-4.0, -5.0, -6.0])
    np.testing.assert_allclose(ipm(EXAMPLE, f=1, n=4, epsilon=2.0).numpy(), [-8.0, -10.0, -12.0])
    np.testing.assert_allclose(alie(EXAMPLE, f=1, n=4, z=1.5).numpy(), [8.5, 9.5, 10.5])


@pytest.mark.parametrize("case", BYZFL, ids=lambda case: f"{len(case['rows'])} rows")
def test_values_of_byzfl(case):
    H = torch.tensor(case["rows"], dtype=torch.float64)
    h = len(H)
    given = {"f": 1, "n": h + 1}
    for found, name in (
        (sign_flip(H, **given), "sign_flip"),
        (ipm(H, **given, epsilon=case["tau"]), "ipm"),
        (alie(H, **given, z=case["tau"]), "alie"),
        (mimic(H, **given, target=case["target"]), "mimic"),
    ):
        np.testing.assert_allclose(found.numpy(), case[name], rtol=1e-6, atol=1e-9)
    rows = torch.zeros(1, 100_000)
    draw = gaussian(rows, f=1, n=2, generator=generator(0), mean=case["mu"], sigma=case["sigma"]).double()
    # both samples' means and deviations lie within four standard errors of each other
    error = case["sigma"] / math.sqrt(100_000)
    assert float(draw.mean()) == pytest.approx(case["gaussian"][0], abs=4 * math.sqrt(2) * error)
    assert float(draw.std()) == pytest.approx(case["gaussian"][1], abs=4 * error)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_attack_keeps_its_input_and_its_type(name, dtype):
    H = normal(9, 7).to(dtype) + 0.2
    before = H.clone()
    bad = EVERY[name](H, f=3, n=12)
    assert bad.shape == (7,)
    assert bad.dtype == dtype
    assert torch.isfinite(bad).all()
    assert torch.equal(H, before)
    assert bad.data_ptr() != H.data_ptr()


@pytest.mark.parametrize("name", EVERY)
def test_every_attack_names_the_bad_row_and_the_bound(name):
    H = normal(9, 7)
    H[4, 2] = math.inf
    with pytest.raises(ValueError, match=r"rows \[4\] hold NaN or infinity"):
        EVERY[name](H, f=3, n=12)
    for f in (0, 12, -1):
        with pytest.raises(ValueError, match="0 < f < n"):
            EVERY[name](normal(9, 7), f=f, n=12)


@given(h=st.integers(2, 9), d=st.integers(1, 9), seed=st.integers(0, 99), offset=st.floats(-1e3, 1e3))
@settings(deadline=None, max_examples=20)
def test_pushes_move_with_the_updates(h, d, seed, offset):
    """What is relative to the mean along the deviation shifts, scales and ignores the order of rows."""
    H = normal(h, d, seed=seed).double()
    order = torch.randperm(h, generator=generator(seed, "order"))
    for attack in (min_max, min_sum, lambda H, f, n: alie(H, f=f, n=n, z=0.7)):
        bad = attack(H, f=1, n=h + 1)
        torch.testing.assert_close(attack(H[order], f=1, n=h + 1), bad)
        torch.testing.assert_close(attack(3.0 * H, f=1, n=h + 1), 3.0 * bad)
        torch.testing.assert_close(attack(H + offset, f=1, n=h + 1), bad + offset, rtol=1e-7, atol=1e-7)


def test_deviation_is_the_samples_even_over_a_large_mean():
    H = normal(6, 40) + 3000.0
    torch.testing.assert_close(deviation_of(H), H.double().std(dim=0).float())


def test_gaussian_repeats_with_its_generator():
    one = gaussian(EXAMPLE, f=1, n=4, generator=generator(5))
    assert torch.equal(one, gaussian(EXAMPLE, f=1, n=4, generator=generator(5)))
    assert not torch.equal(one, gaussian(EXAMPLE, f=1, n=4, generator=generator(6)))
    with pytest.raises(ValueError, match="sigma >= 0"):
        gaussian(EXAMPLE, f=1, n=4, generator=generator(0), sigma=-1.0)


@pytest.mark.parametrize(
    ("n", "f", "z"), [(12, 2, 0.0), (50, 10, 0.2533), (50, 24, 1.4261), (10, 4, 0.9674), (10, 5, 0.8416)]
)
def test_alie_z_of_the_formula(n, f, z):
    s = math.floor(n / 2 + 1) - f
    share = (n - f - s) / (n - f)
    assert 0.5 * (1 + math.erf(alie_z(f=f, n=n) / math.sqrt(2))) == pytest.approx(share)
    if (n, f) != (10, 4):
        assert alie_z(f=f, n=n) == pytest.approx(z, abs=1e-4)


def test_alie_z_refuses_a_majority():
    with pytest.raises(ValueError, match="f <= floor"):
        alie_z(f=6, n=10)


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(h=st.integers(2, 8), d=st.integers(2, 12), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=12)
def test_closed_forms_equal_the_search(direction, h, d, seed):
    H = normal(h, d, seed=seed) + 0.3
    before = H.clone()
    for attack, allowed in ((min_max, inside_max), (min_sum, inside_sum)):
        found = attack(H, f=1, n=h + 1, direction=direction)
        np.testing.assert_allclose(found.numpy(), searched(H, direction, allowed).numpy(), rtol=1e-4, atol=1e-4)
    assert torch.equal(H, before)


def test_default_ipm_reverses_the_plain_mean():
    H = normal(7, 10)
    bad = ipm(H, f=3, n=10)
    np.testing.assert_allclose(((H.sum(dim=0) + 3 * bad) / 10).numpy(), (-0.7 * H.mean(dim=0)).numpy(), atol=1e-5)


def test_alie_stays_inside_the_spread_of_what_it_knows():
    H = normal(24, 200)
    bad = alie(H, f=12, n=50)
    distance = (bad - H.mean(dim=0)).norm()
    assert float(distance) < float((H - H.mean(dim=0)).norm(dim=1).median())


def test_without_spread_there_is_nothing_to_hide_in():
    H = torch.ones(4, 5)
    for attack in (alie, min_max, min_sum):
        np.testing.assert_allclose(attack(H, f=2, n=8).numpy(), np.ones(5), atol=1e-6)
    zeros = torch.zeros(4, 5)
    assert not min_max(zeros, f=2, n=8, direction="unit").any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: alie(EXAMPLE[:1], f=1, n=4), "n >= 2 rows"),
        (lambda: min_max(EXAMPLE[:1], f=1, n=4), "n >= 2 rows"),
        (lambda: min_sum(EXAMPLE, f=0, n=4), "0 < f < n"),
        (lambda: ipm(EXAMPLE, f=4, n=4), "0 < f < n"),
        (lambda: sign_flip(torch.full((2, 2), math.nan), f=1, n=3), "NaN"),
        (lambda: alie(EXAMPLE, f=1, n=2), "finite z"),
    ],
)
def test_guards(call, words):
    with pytest.raises(ValueError, match=words):
        call()
