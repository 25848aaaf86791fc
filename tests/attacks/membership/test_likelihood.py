"""LiRA's and RMIA's tests against closed forms and slow truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussians import PUBLISHED, exact, game
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsec.attacks.membership.likelihood import likelihood_ratio, marginal, outside_score, pairwise_ratio
from fedsec.attacks.membership.references import draw
from fedsec.measure import roc


def curve(scores, members):
    return roc(scores[members], scores[~members])


@pytest.mark.parametrize("sigma", PUBLISHED)
@pytest.mark.parametrize("offline", [False, True])
def test_exact_gaussian_scores_stay_optimal_through_lira(sigma, offline):
    """With shadows that know the Gaussians, the ratio grows with the score, so the optimal test stays optimal."""
    inside, outside = exact(sigma, 20_000)
    scores = torch.cat([inside, outside])
    around = torch.tensor([-1.0, 0.0, 1.0, -1.0, 0.0, 1.0], dtype=torch.float64).unsqueeze(1)
    kinds = torch.tensor([True] * 3 + [False] * 3).unsqueeze(1).expand(6, len(scores))
    shadows = (around + kinds / sigma).expand(6, len(scores))
    if offline:
        found = outside_score(scores, shadows[3:], per_sample=True)
    else:
        found = likelihood_ratio(scores, shadows, kinds, per_sample=False)
    members = torch.arange(len(scores)) < len(inside)
    area, rate = PUBLISHED[sigma]
    assert curve(found, members).auc == pytest.approx(area, abs=1e-3)
    assert curve(found, members).tpr_at(0.001) == pytest.approx(rate, rel=0.03, abs=1e-4)


def test_with_many_shadows_lira_is_the_optimal_test():
    target, known, inside, members, difficulty, _ = game(4000, 400, gap=1.0, spread=3.0)
    optimal = curve(target - difficulty, members)
    found = curve(likelihood_ratio(target, known, inside, per_sample=False), members)
    assert found.auc == pytest.approx(PUBLISHED[1.0][0], abs=0.02)
    assert found.auc == pytest.approx(optimal.auc, abs=0.005)
    assert found.tpr_at(0.01) == pytest.approx(optimal.tpr_at(0.01), abs=0.02)
    # One threshold for all knows nothing of how hard each example is.
    assert curve(target, members).auc < 0.62


def test_at_few_shadows_one_variance_beats_one_per_example_at_low_rates():
    target, known, inside, members, *_ = game(20_000, 16, gap=2.0, spread=3.0)
    fixed = curve(likelihood_ratio(target, known, inside, per_sample=False), members)
    own = curve(likelihood_ratio(target, known, inside, per_sample=True), members)
    assert fixed.tpr_at(0.001) > 1.5 * own.tpr_at(0.001)
    assert fixed.auc > own.auc


def test_at_many_shadows_examples_of_unequal_noise_want_their_own_variance():
    target, known, inside, members, *_ = game(4000, 400, gap=1.0, spread=1.0, scale=1.0)
    fixed = curve(likelihood_ratio(target, known, inside, per_sample=False), members)
    own = curve(likelihood_ratio(target, known, inside, per_sample=True), members)
    assert own.auc > fixed.auc + 0.01


@given(seed=st.integers(0, 1000), per_sample=st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_ratio_against_scipy_example_by_example(seed, per_sample):
    target, known, inside, *_ = game(7, 8, gap=1.0, spread=2.0, seed=seed)
    found = likelihood_ratio(target, known, inside, per_sample=per_sample)
    sides = []
    for kind in (inside, ~inside):
        columns = [known[kind[:, i], i].numpy() for i in range(7)]
        own = np.array([column.var(ddof=1) for column in columns])
        deviations = np.sqrt(own if per_sample else np.full(7, own.mean()))
        centres = [np.median(column) for column in columns]
        sides.append(stats.norm.logpdf(target.numpy(), centres, deviations))
    np.testing.assert_allclose(found.numpy(), sides[0] - sides[1], rtol=1e-9, atol=1e-9)


def test_offline_is_one_sided():
    known = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(50, 3).double()
    scores = outside_score(torch.tensor([-30.0, 0.0, 30.0]), known, per_sample=False)
    assert scores[0] < scores[1] < scores[2]


def test_shadows_that_know_nothing_leave_chance():
    target, known, inside, members, *_ = game(6000, 16, gap=0.0, spread=2.0)
    for per_sample in (False, True):
        assert abs(curve(likelihood_ratio(target, known, inside, per_sample=per_sample), members).auc - 0.5) < 0.03


def test_two_shadows_of_each_kind_are_needed():
    with pytest.raises(ValueError, match="two shadows"):
        likelihood_ratio(torch.zeros(1), torch.zeros(3, 1), torch.tensor([[True], [True], [False]]), per_sample=False)


def test_equal_shadows_give_finite_scores():
    target, kinds = torch.tensor([0.0, 5.0]), torch.tensor([[True], [True], [False], [False]]).expand(4, 2)
    assert likelihood_ratio(target, torch.zeros(4, 2), kinds, per_sample=True).isfinite().all()


def test_marginal_by_hand():
    probabilities = torch.tensor([[0.9, 0.5], [0.7, 0.25], [0.1, 0.75], [0.3, 0.5]], dtype=torch.float64)
    inside = torch.tensor([[True, False], [True, True], [False, False], [False, True]])
    both = marginal(probabilities.log(), inside).exp()
    torch.testing.assert_close(both, torch.tensor([(0.8 + 0.2) / 2, (0.375 + 0.625) / 2], dtype=torch.float64))
    line = marginal(probabilities.log(), inside, a=0.3).exp()
    expected = [(0.2 + 0.3 * 0.2 + 0.7) / 2, (0.625 + 0.3 * 0.625 + 0.7) / 2]
    torch.testing.assert_close(line, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(
        marginal(probabilities.log(), inside, a=1.0).exp(), torch.tensor([0.2, 0.625], dtype=torch.float64)
    )
    assert marginal(probabilities.log(), torch.zeros_like(inside)).isnan().all()


@given(seed=st.integers(0, 1000), gamma=st.sampled_from([1.0, 1.5, 2.0]))
@settings(max_examples=15, deadline=None)
def test_dominance_counted_pair_by_pair(seed, gamma):
    random = np.random.default_rng(seed)
    candidates, population = random.normal(size=12), random.normal(size=9)
    found = pairwise_ratio(torch.from_numpy(candidates), torch.from_numpy(population), gamma=gamma)
    counts = [sum(math.exp(c - z) >= gamma for z in population) for c in candidates]
    np.testing.assert_array_equal(np.floor(found.numpy() * 10 + 1e-9), counts)
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_ties_stay_ties_and_larger_ratios_come_first():
    found = pairwise_ratio(torch.tensor([3.0, 1.0, 3.0, 2.0]), torch.zeros(2), gamma=1.0)
    assert found[0] == found[2] > found[3] > found[1]


@given(candidates=st.integers(0, 9), public=st.integers(0, 9), examples=st.integers(0, 12), online=st.booleans())
@settings(max_examples=40, deadline=None)
def test_each_candidate_is_in_half_of_the_shadows(candidates, public, examples, online):
    ours, theirs = draw(candidates, public, shadows=6, online=online, examples=examples)
    assert (ours.sum(0) == (3 if online else 0)).all()
    if examples:
        left = (examples - ours.sum(1)).clamp(0, public)
        assert (theirs.sum(1) == left).all()
    else:
        assert (theirs.sum(1) == public // 2).all()
    fewer = draw(candidates, public, shadows=4, online=online, examples=examples)
    assert torch.equal(fewer[0], ours[:4])
    assert torch.equal(fewer[1], theirs[:4])


def test_shadows_without_candidates_do_not_depend_on_them():
    a, b = (draw(n, 20, shadows=4, online=False, examples=0)[1] for n in (0, 17))
    assert torch.equal(a, b)
