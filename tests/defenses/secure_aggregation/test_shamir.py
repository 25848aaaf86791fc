"""Secrets from shares: right with the threshold, nothing with one share fewer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.secure_aggregation.shamir import PRIME, SHARE_BYTES, coefficients_at_zero, combine, split


@settings(deadline=None, max_examples=60)
@given(
    secret=st.binary(min_size=32, max_size=32),
    points=st.lists(st.integers(1, 10**9), min_size=1, max_size=12, unique=True),
    data=st.data(),
)
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, points: list[int], data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, len(points)))
    shares = dict(zip(points, split(secret, threshold=threshold, points=points), strict=True))
    assert all(len(share) == SHARE_BYTES for share in shares.values())
    chosen = data.draw(st.permutations(points))[:threshold]
    assert combine({point: shares[point] for point in chosen}, threshold=threshold) == secret


def test_known_answer_by_hand() -> None:
    # f(x) = 7 + 3 x: two shares give f(0)
    shares = {x: (7 + 3 * x).to_bytes(SHARE_BYTES, "little") for x in (4, 9)}
    assert combine(shares, threshold=2) == (7).to_bytes(32, "little")
    assert sum(coefficients_at_zero((4, 9))) % PRIME == 1


def test_one_share_fewer_is_consistent_with_every_secret() -> None:
    """For each other secret there is exactly one polynomial through the shares that a coalition of t - 1 holds."""
    points, threshold = [1, 2, 3, 4, 5], 4
    shares = dict(zip(points, split(bytes(32), threshold=threshold, points=points), strict=True))
    held = {point: shares[point] for point in points[:3]}
    for guess in (bytes(32), b"\xff" * 32, random.Random(0).randbytes(32)):
        at = {0: int.from_bytes(guess, "little")} | {p: int.from_bytes(s, "little") for p, s in held.items()}
        missing = interpolate(at, 4)
        completed = {**held, 4: missing.to_bytes(SHARE_BYTES, "little")}
        assert combine(completed, threshold=threshold) == guess


def interpolate(at: dict[int, int], x: int) -> int:
    total = 0
    for this, value in at.items():
        factor = value
        for other in at:
            if other != this:
                factor = factor * (x - other) * pow(this - other, -1, PRIME) % PRIME
        total += factor
    return total % PRIME


def test_shares_below_the_threshold_look_uniform() -> None:
    """The top 8 bits of one share of a fixed secret: chi-square over 256 cells."""
    from scipy.stats import chisquare

    counts = [0] * 256
    for _ in range(20_000):
        share = split(bytes(32), threshold=2, points=[1, 2])[0]
        counts[int.from_bytes(share, "little") >> 513] += 1
    assert chisquare(counts).pvalue > 1e-6


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        split(b"short", threshold=1, points=[1])
    for threshold, points in ((3, [1, 2]), (0, [1]), (1, [1, 1]), (1, [0])):
        with pytest.raises(ValueError, match="cannot share"):
            split(bytes(32), threshold=threshold, points=points)
    shares = dict(zip([1, 2, 3], split(b"k" * 32, threshold=3, points=[1, 2, 3]), strict=True))
    with pytest.raises(ValueError, match="do not open"):
        combine({1: shares[1], 2: shares[2]}, threshold=3)
    with pytest.raises(ValueError, match="not of one secret"):
        combine(shares | {2: bytes(SHARE_BYTES)}, threshold=3)
