"""The servers' check of a norm: right at the edge, and not fooled by words that wrap around."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.secret_sharing.arithmetic import Traffic, Words, share
from fedsec.defenses.secret_sharing.norms import NormBound, most_bits_for_squares
from fedsec.defenses.secure_aggregation.fixed_point import FixedPoint
from fedsec.randomness import generator


def bound_of(size: int, bound: float = 1.0, max_weight: int = 8) -> NormBound:
    bits = min(16, most_bits_for_squares(size, max_weight))
    return NormBound(bound=bound, value_range=1.0, levels=(1 << bits) - 1, max_weight=max_weight, size=size)


def truth(check: NormBound, row: list[int]) -> bool:
    """In Python integers."""
    *entries, weight = row
    if any(v >= 1 << check.entry_bits for v in entries) or weight >= 1 << check.weight_bits:
        return False
    return sum((2 * v - weight * check.levels) ** 2 for v in entries) <= check.factor * weight**2


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 30), servers=st.integers(2, 3), weight=st.integers(1, 8),
    length=st.sampled_from([0.0, 0.5, 0.99, 1.0, 1.01, 1.2, 3.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_agrees_with_integers_around_the_bound(size: int, servers: int, weight: int, length: float, seed: int) -> None:
    check = bound_of(size)
    random = generator("norm", seed)
    values = torch.randn(1, size, generator=random, dtype=torch.float64)
    values *= length / values.norm()
    fixed = FixedPoint(value_range=1.0, bits=check.levels.bit_length(), max_weight=8, capacity=4, ring_bits=64)
    row = fixed.encode(values, torch.tensor([float(weight)]), [random])[0].astype(np.uint64)
    accepted = check.accepts(share(row, servers), Traffic())
    assert accepted == truth(check, [int(v) for v in row])
    if length <= 1.0:
        assert accepted
    if length > 1.0 + 2 * math.sqrt(size) * fixed.step:
        assert not accepted or float(values.abs().max()) > 1.0


@settings(deadline=None, max_examples=40)
@given(row=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 2**20), min_size=2, max_size=9))
def test_agrees_with_integers_on_any_words(row: list[int]) -> None:
    check = bound_of(len(row) - 1)
    words: Words = np.array(row, dtype=np.uint64)
    assert check.accepts(share(words, 2), Traffic()) == truth(check, row)


def test_words_whose_squares_wrap_to_zero_are_refused() -> None:
    """An entry 2**62 away from the middle is centred to 2**63 - 1, whose square is 1: short, but for its range."""
    check = bound_of(3)
    middle = check.levels // 2
    honest = [middle, middle, middle + 1, 1]
    wrapping = [middle + 2**62, middle, middle + 1, 1]
    squares = sum((2 * v - check.levels) ** 2 for v in wrapping[:-1]) % 2**64
    assert squares <= check.factor
    assert check.accepts(share(np.array(honest, np.uint64), 2), Traffic())
    assert not check.accepts(share(np.array(wrapping, np.uint64), 2), Traffic())
    # nor does a weight that it has not
    assert not check.accepts(share(np.array([0, 0, 0, 1 << 40], np.uint64), 2), Traffic())


def test_cost_grows_with_the_entries_and_rounds_with_their_logarithm() -> None:
    costs = []
    for size in (64, 128):
        traffic, check = Traffic(), bound_of(size)
        check.accepts(share(np.zeros(size + 1, np.uint64), 2), traffic)
        costs.append((traffic.bytes / size, traffic.rounds))
    assert costs[0][0] == pytest.approx(costs[1][0], rel=0.2)
    assert costs[1][1] == costs[0][1] + 1


@pytest.mark.parametrize("size", [1, 7850, 10**6])
@pytest.mark.parametrize("max_weight", [1, 1024])
def test_bits_are_the_most_that_wrap_nowhere(size: int, max_weight: int) -> None:
    bits = most_bits_for_squares(size, max_weight)
    longest = math.sqrt(size)

    def build(bits: int) -> NormBound:
        return NormBound(bound=longest, value_range=1.0, levels=(1 << bits) - 1, max_weight=max_weight, size=size)

    check = build(bits)
    assert size * (2 * (max_weight * check.levels)) ** 2 < 1 << 63
    assert check.factor * ((1 << max_weight.bit_length()) - 1) ** 2 < 1 << 63
    with pytest.raises(ValueError, match="do not fit"):
        build(bits + 1)
