"""Codes and lanes: unbiased, exact in the sum, and never one lane into the next."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.encryption.quantised import Grid, Lanes, carry_bits, dequantise, mean_of, quantise, saturated
from fedsec.randomness import numpy_generator


def test_known_codes() -> None:
    grid = Grid(bound=1.0, bits=3)
    assert (grid.levels, grid.step) == (3, pytest.approx(1 / 3))
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 0.5])
    assert quantise(values, grid, np.zeros(6)).tolist() == [0, 0, 3, 6, 6, 4]
    assert quantise(values, grid, np.full(6, 0.999)).tolist() == [0, 0, 3, 6, 6, 5]
    assert saturated(values, grid) == 2
    assert quantise(values, grid, np.zeros(6), scale=1 / 3).tolist() == [2, 2, 3, 4, 4, 3]


def test_zero_stays_zero_and_rounding_is_unbiased() -> None:
    grid, random = Grid(bound=0.5, bits=4), numpy_generator("unbiased")
    assert not dequantise(quantise(np.zeros(100), grid, random.random(100)), grid, rows=1).any()
    value, draws = 0.123, 200_000
    codes = quantise(np.full(draws, value), grid, random.random(draws))
    assert set(codes.tolist()) == {8, 9}
    back = dequantise(codes, grid, rows=1)
    assert abs(back.mean() - value) < 5 * grid.step / 2 / draws**0.5


@settings(deadline=None)
@given(
    bits=st.integers(2, 24), rows=st.integers(1, 5000), size=st.integers(0, 40), seed=st.integers(0, 99),
    extreme=st.booleans(),
)  # fmt: skip
def test_sums_of_packed_rows_are_packed_sums(bits: int, rows: int, size: int, seed: int, extreme: bool) -> None:
    lanes = Lanes(bits, rows, 41)
    assert rows <= 2 ** carry_bits(rows) < 2 * rows + 1
    if lanes.count < 1:
        assert bits + carry_bits(rows) > 41
        return
    random = numpy_generator("lanes", seed)
    few = min(rows, 6)
    codes = random.integers(0, 2**bits - 1, (few, size))
    codes[0] = 2**bits - 2 if extreme else codes[0]
    # one row stands for all that are left, at the largest code
    packed = sum(lanes.pack(row) for row in codes) + (rows - few) * lanes.pack(np.full(size, 2**bits - 2))
    truth = [sum(int(row[k]) for row in codes) + (rows - few) * (2**bits - 2) for k in range(size)]
    assert lanes.unpack(packed, size).tolist() == truth
    assert size == 0 or int(packed.max()) < 2**41


def test_refuses_what_would_overflow() -> None:
    for bad in (-1, 2**8 - 1):
        with pytest.raises(OverflowError, match="outside"):
            Lanes(8, 4, 41).pack(np.array([0, bad]))
    with pytest.raises(OverflowError, match="narrow"):
        Lanes(8, 4, 63).pack(np.array([0]))


def test_one_row_more_than_planned_reaches_the_next_lane() -> None:
    """What the count of rows guards against: without it the sum would be wrong, and nobody would notice."""
    lanes = Lanes(bits=4, rows=16, room=41)
    full = lanes.pack(np.full(10, 14))
    assert lanes.unpack(16 * full, 10).tolist() == [16 * 14] * 10
    assert lanes.unpack(19 * full, 10).tolist() != [19 * 14] * 10


@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=5), seed=st.integers(0, 50))
def test_the_mean_is_within_a_step_of_the_true_one(weights: list[int], seed: int) -> None:
    grid, random = Grid(bound=1.0, bits=12), numpy_generator("mean", seed)
    values = random.uniform(-1, 1, (len(weights), 7))
    rows = [
        np.concatenate([[1, w], quantise(v, grid, random.random(7), scale=w / 50)])
        for v, w in zip(values, weights, strict=True)
    ]
    mean, total = mean_of(np.sum(rows, axis=0).astype(np.int64), grid, largest_weight=50)
    truth = np.average(values, axis=0, weights=weights)
    assert total == sum(weights)
    # every row is off by less than a step, before it is divided by the total weight in units of the largest
    assert np.abs(mean - truth).max() < grid.step * len(weights) * 50 / sum(weights)


def test_the_mean_of_nothing_is_zero() -> None:
    mean, total = mean_of(np.zeros(5, dtype=np.int64), Grid(1.0, 8), largest_weight=1)
    assert (mean.tolist(), total) == ([0.0, 0.0, 0.0], 0.0)
