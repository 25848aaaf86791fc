"""Counts of labels under local differential privacy: chances that differ by at most ``e^eps``, and no bias."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsec.defenses.privacy.label_statistics import (
    counts_from_rappor,
    counts_from_responses,
    laplace_counts,
    randomised_response,
    rappor,
    response_chances,
)
from fedsec.randomness import generator

LABELS = torch.arange(4).repeat_interleave(torch.tensor([4000, 1000, 0, 5000]))
TRUE = torch.tensor([4000.0, 1000.0, 0.0, 5000.0], dtype=torch.float64)


@given(st.integers(2, 50), st.floats(0.05, 8))
def test_responses_differ_by_exactly_epsilon(classes: int, epsilon: float) -> None:
    truth, other = response_chances(classes=classes, epsilon=epsilon)
    assert math.log(truth / other) == pytest.approx(epsilon)
    assert truth + (classes - 1) * other == pytest.approx(1)


def test_responses_have_these_chances() -> None:
    truth, other = response_chances(classes=4, epsilon=1.0)
    reports = randomised_response(torch.full((40_000,), 2), classes=4, epsilon=1.0, generator=generator("r"))
    shares = torch.bincount(reports, minlength=4) / 40_000
    assert float((shares - torch.tensor([other, other, truth, other])).abs().max()) < 0.01


@pytest.mark.parametrize("mechanism", ["response", "rappor", "laplace"])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_estimates_are_unbiased(mechanism: str, epsilon: float) -> None:
    """The mean over many draws, against five standard errors of what was seen."""
    draws = []
    for number in range(60):
        draw = generator(mechanism, number)
        shared = {"classes": 4, "epsilon": epsilon}
        if mechanism == "response":
            reports = randomised_response(LABELS, **shared, generator=draw)
            draws.append(counts_from_responses(reports, **shared))
        elif mechanism == "rappor":
            draws.append(counts_from_rappor(rappor(LABELS, **shared, generator=draw), epsilon=epsilon))
        else:
            draws.append(laplace_counts(LABELS, **shared, generator=draw))
    found = torch.stack(draws)
    errors = (found.mean(0) - TRUE).abs() / (found.std(0) / math.sqrt(60))
    assert float(errors.max()) < 5


def test_rappor_flips_each_bit_by_half_the_budget() -> None:
    """Two labels differ in two bits, each of which tells half of epsilon."""
    reports = rappor(torch.zeros(40_000, dtype=torch.int64), classes=3, epsilon=2.0, generator=generator("b"))
    ones = reports.double().mean(0)
    flip = 1 / (math.e + 1)
    assert float((ones - torch.tensor([1 - flip, flip, flip])).abs().max()) < 0.01
    assert 2 * math.log((1 - flip) / flip) == pytest.approx(2.0)


def test_laplace_noise_has_twice_the_scale_of_adding_or_removing() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    noise = torch.stack([
        laplace_counts(empty, classes=50, epsilon=0.5, generator=generator("l", i)) for i in range(200)
    ])  # fmt: skip
    assert float(noise.abs().mean()) == pytest.approx(4.0, rel=0.05)
    assert float(noise.var()) == pytest.approx(2 * 4.0**2, rel=0.1)


def test_one_report_says_little_and_many_of_one_person_much() -> None:
    """Its limit: who answers the same question again and again is read."""
    label, epsilon = torch.full((400,), 1), 0.5
    once = randomised_response(label, classes=2, epsilon=epsilon, generator=generator("once"))
    assert 0.5 < float((once == 1).double().mean()) < 0.75
    assert int(once.mode().values) == 1


@pytest.mark.parametrize("epsilon", [0.0, -1.0])
def test_no_budget_is_refused(epsilon: float) -> None:
    labels, draw = torch.zeros(2, dtype=torch.int64), generator("x")
    for mechanism in (randomised_response, rappor, laplace_counts):
        with pytest.raises(ValueError, match="epsilon"):
            mechanism(labels, classes=2, epsilon=epsilon, generator=draw)
