"""Sums of cohorts that overlap give single clients away; cohorts that repeat do not."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.secure_aggregation.differencing import solved_by_differencing
from fedsec.randomness import generator


def test_two_cohorts_that_differ_in_one_client() -> None:
    updates = torch.randn(5, 20, generator=generator("difference"), dtype=torch.float64)
    drift = 0.01 * torch.randn(5, 20, generator=generator("drift"), dtype=torch.float64)
    sums = torch.stack([updates.sum(0), (updates + drift)[:4].sum(0)])
    solved = solved_by_differencing(sums, [range(5), range(4)])
    assert set(solved) == {4}
    similarity = torch.cosine_similarity(solved[4], updates[4], dim=0)
    assert similarity > 0.99


def test_the_same_cohort_again_gives_nothing() -> None:
    sums = torch.randn(6, 20, generator=generator("same"))
    assert solved_by_differencing(sums, [range(4)] * 6) == {}


def test_a_cohort_of_one_is_no_secret() -> None:
    sums = torch.randn(1, 3, generator=generator("one"))
    assert torch.equal(solved_by_differencing(sums, [[7]])[7], sums[0])


@settings(deadline=None, max_examples=40)
@given(
    cohorts=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_solves_exactly_what_is_determined(cohorts: list[set[int]], seed: int) -> None:
    """A client is solved if and only if changing it alone cannot be hidden by changing others."""
    updates = torch.randn(6, 3, generator=generator("solve", seed), dtype=torch.float64)
    sums = torch.stack([updates[sorted(cohort)].sum(0) for cohort in cohorts])
    solved = solved_by_differencing(sums, [sorted(cohort) for cohort in cohorts])
    for client, update in solved.items():
        assert torch.allclose(update, updates[client], atol=1e-8)
    incidence = torch.tensor([[float(i in cohort) for i in range(6)] for cohort in cohorts], dtype=torch.float64)
    _, values, right = torch.linalg.svd(incidence)
    kernel = right[int((values > 1e-9).sum()) :]
    seen = {client for cohort in cohorts for client in cohort}
    free = {i for i in range(6) if bool((kernel[:, i].abs() > 1e-9).any())}
    assert set(solved) == seen - free
