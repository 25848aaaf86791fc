"""Scores of canaries: their null, what the regression removes, and least squares written out."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fedsec.attacks.auditing.scores import direction, joint_scores, lone_score
from fedsec.randomness import generator


def directions(m: int, d: int, seed: int = 3) -> torch.Tensor:
    return torch.stack([direction(seed, i, d) for i in range(m)])


def test_lone_scores_are_standard_normal_and_zero_for_nothing() -> None:
    towards = directions(800, 500)
    anything = torch.linspace(-1, 5, 500)
    scores = [lone_score(anything, one) for one in towards]
    assert stats.kstest(scores, "norm").pvalue > 1e-3
    assert lone_score(torch.zeros(500), towards[0]) == 0.0
    assert lone_score(towards[0], towards[0]) == pytest.approx(500**0.5)


def test_joint_scores_of_excluded_canaries_are_standard_normal_whatever_the_others_do() -> None:
    scores = []
    for seed in range(40):
        rows = directions(60, 300, seed)
        change = 5 * rows[:30].sum(0) + torch.linspace(-1, 1, 300)
        scores += joint_scores(rows, change[None], [[0]] * 60)[30:].tolist()
    assert stats.kstest(scores, "norm").pvalue > 1e-3


def test_joint_scores_are_least_squares() -> None:
    rows, change = directions(5, 40), torch.randn(40, generator=generator("change"))
    found = joint_scores(rows, change[None], [[0]] * 5)
    for i in range(5):
        others = torch.cat([rows[:i], rows[i + 1 :]]).T.double()
        project = torch.eye(40).double() - others @ torch.linalg.pinv(others)
        u, r = project @ rows[i].double(), project @ change.double()
        assert float(found[i]) == pytest.approx(36**0.5 * float(u @ r / u.norm() / r.norm()), abs=1e-5)


def test_the_auditor_s_other_canaries_are_no_noise() -> None:
    rows = directions(100, 400)
    change = rows[:50].sum(0) + 0.01 * torch.randn(400, generator=generator("little"))
    alone = torch.tensor([lone_score(change, row) for row in rows])
    joint = joint_scores(rows, change[None], [[0]] * 100)
    assert alone[:50].min() < alone[50:].max()
    assert joint[:50].min() > 10 > 4 > joint[50:].abs().max()


def test_a_canary_is_looked_for_in_its_own_rounds() -> None:
    rows = directions(3, 200)
    steps = torch.stack([rows[0], rows[0] + rows[1], torch.randn(200, generator=generator("noise"))])
    found = joint_scores(rows, steps, [[0, 1], [1], []])
    assert found[0] > 10
    assert found[1] > 10
    assert found[2] == 0.0
    summed = joint_scores(rows, steps[:2].sum(0, keepdim=True), [[0]] * 3)
    assert found[0] == pytest.approx(float(summed[0]), rel=1e-6)


def test_more_canaries_than_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="4 canaries cannot be told apart in 4 dimensions"):
        joint_scores(directions(4, 4), torch.ones(1, 4), [[0]] * 4)
