"""Bounds that cover, on the exact Gaussian mechanism, and that catch mechanisms which do less than they claim."""

from __future__ import annotations

import numpy as np
import pytest

from fedsec.epsilon import coverage
from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.epsilon.guesses import audit_epsilon, border, right_guesses
from fedsec.epsilon.one_run import one_run_epsilon
from fedsec.randomness import numpy_generator

DELTA = 1e-4


@pytest.mark.parametrize("noise", [2.0, 0.7])
def test_95_percent_bounds_cover_in_at_least_95_percent_of_200_audits(noise: float) -> None:
    true = gaussian_epsilon(1 / noise, DELTA)
    found = coverage.bounds(noise=noise, canaries=64, dimension=512, audits=200, delta=DELTA)
    assert set(found) == set(coverage.AUDITS) >= {"one-run", "f-dp", "gaussian-dp", "known-null"}
    for name, values in found.items():
        assert (values <= true).mean() >= 0.95, name
    # a test that always says 0 covers too: the better ones must say something of the loud mechanism
    if noise < 1:
        assert np.median(found["gaussian-dp"]) > 0.1 * true
        assert np.median(found["f-dp"]) > 0.05 * true


@pytest.mark.parametrize("fault", coverage.FAULTS)
def test_broken_mechanisms_are_flagged(fault: coverage.Fault) -> None:
    claim = gaussian_epsilon(1 / 2.0, DELTA)
    found = coverage.bounds(noise=2.0, canaries=256, dimension=1024, audits=20, delta=DELTA, fault=fault)
    assert (found["gaussian-dp"] > claim).mean() >= 0.95
    # a factor of 4 is little for 256 canaries and a test that assumes nothing of the mechanism
    assert (found["f-dp"] > claim).mean() >= (0.2 if fault == "wrong sensitivity" else 0.95)
    honest = coverage.bounds(noise=2.0, canaries=256, dimension=1024, audits=20, delta=DELTA)
    for name, values in honest.items():
        assert (values > claim).mean() <= 0.1, name


def test_the_scores_are_what_the_gaussian_mechanism_gives() -> None:
    random = numpy_generator("scores")
    runs = [coverage.gaussian_audit(noise=2.0, canaries=20, dimension=2048, generator=random) for _ in range(60)]
    scores, coins = (np.concatenate(part) for part in zip(*runs, strict=True))
    assert scores[~coins].mean() == pytest.approx(0.0, abs=0.15)
    assert scores[~coins].std() == pytest.approx(1.0, abs=0.1)
    assert scores[coins].mean() == pytest.approx(0.5, abs=0.15)


def test_a_sweep_without_correction_covers_too_seldom_and_the_corrected_one_does_not() -> None:
    """Perfect privacy: coins that nobody saw. Any bound above 0 is wrong."""
    random = numpy_generator("sweep")
    m, shares = 200, tuple(k / 20 for k in range(1, 21))
    wrong = {"best of all": 0, "corrected": 0}
    for _ in range(200):
        scores, coins = random.standard_normal(m), random.integers(2, size=m).astype(bool)
        right = right_guesses(scores, coins)
        each = [
            one_run_epsilon(canaries=m, guesses=r, correct=int(right[r]), delta=0.0)
            for r in (round(share * m) for share in shares)
        ]
        wrong["best of all"] += max(each) > 0
        wrong["corrected"] += audit_epsilon(scores, coins, delta=0.0, method="one-run", shares=shares).value > 0
    assert wrong["corrected"] <= 10 < wrong["best of all"]


def test_guessing_by_hand() -> None:
    scores = np.array([0.0, 0.2, 0.1, 5.0, 5.2, 4.0])
    coins = np.array([False, False, True, True, True, True])
    assert border(scores) == pytest.approx((0.1 + 14.2 / 3) / 2)
    # the surest are those farthest from the border: 5.2, 5, 0, 0.1 (wrong), 0.2, 4
    assert right_guesses(scores, coins).tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert border(np.full(4, 3.0)) == 3.0
    assert border(np.array([1.0])) == 1.0


def test_the_ceiling_is_what_perfect_guesses_give() -> None:
    coins = np.arange(200) % 2 == 0
    perfect = audit_epsilon(coins * 10.0, coins, delta=1e-5)
    assert perfect.value == perfect.ceiling > 2.5
    assert (perfect.guesses, perfect.correct) == (200, 200)
    some = audit_epsilon(np.where(np.arange(200) < 170, coins, ~coins) * 1.0, coins, delta=1e-5)
    assert 0 < some.value < some.ceiling == perfect.ceiling
    one = audit_epsilon(coins * 10.0, coins, delta=1e-5, shares=(1.0,))
    assert one.value > perfect.value


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"scores": [[1.0]]}, "scores"),
        ({"scores": [np.nan, 1.0]}, "scores"),
        ({"included": [True]}, "included"),
        ({"method": "best"}, "method"),
        ({"shares": ()}, "shares"),
        ({"shares": (1.5,)}, "shares"),
        ({"confidence": 0.0}, "confidence"),
        ({"delta": -1.0}, "delta"),
    ],
)
def test_a_bad_argument_is_named(bad: dict[str, object], named: str) -> None:
    good: dict[str, object] = {"scores": [1.0, 0.0], "included": [True, False], "delta": 0.0}
    with pytest.raises(ValueError, match=f"^{named} must"):
        audit_epsilon(**{**good, **bad})  # type: ignore[arg-type]
