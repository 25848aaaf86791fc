"""Words: masks are uniform, sums never wrap, and the opened sum is the sum of the words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedsec.defenses.secure_aggregation.fixed_point import FixedPoint, most_bits
from fedsec.defenses.secure_aggregation.ring import SEED_BYTES, add_mask, dtype_of, mask
from fedsec.randomness import generator


def draws(n: int) -> list[torch.Generator]:
    return [generator("draw", row) for row in range(n)]


@pytest.mark.parametrize("ring_bits", [32, 64])
def test_masks_are_uniform_over_the_whole_ring(ring_bits: int) -> None:
    words = mask(b"\x07" * 32, 1 << 17, ring_bits)
    for shift in (0, ring_bits // 2, ring_bits - 8):
        counts = np.bincount(((words >> shift) & 255).astype(np.int64), minlength=256)
        assert chisquare(counts).pvalue > 1e-6
    assert int(words.max()) > (1 << ring_bits) * 0.999
    assert int(words.min()) < (1 << ring_bits) * 0.001


@pytest.mark.parametrize("ring_bits", [32, 64])
@pytest.mark.parametrize("length", [1, 63, 16384, 16385, 40_000])
def test_a_mask_is_the_keystream(ring_bits: int, length: int) -> None:
    seed = bytes(range(32))
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), None).encryptor().update(bytes(length * ring_bits // 8))
    assert np.array_equal(mask(seed, length, ring_bits), np.frombuffer(stream, dtype_of(ring_bits)))


def test_every_byte_of_the_seed_counts() -> None:
    """A seed of fewer bits would give the same mask for some of these."""
    first = [bytes(mask(bytes(32), 4, 32))]
    for place in range(SEED_BYTES):
        for bit in (0, 7):
            seed = bytearray(32)
            seed[place] = 1 << bit
            first.append(bytes(mask(bytes(seed), 4, 32)))
    assert len(set(first)) == len(first)
    with pytest.raises(ValueError, match="32 bytes"):
        mask(b"short", 4, 32)


def test_a_mask_is_taken_away_again() -> None:
    row = np.arange(50_000, dtype=np.uint32)
    add_mask(row, b"s" * 32)
    assert not np.array_equal(row, np.arange(50_000))
    add_mask(row, b"s" * 32, subtract=True)
    assert np.array_equal(row, np.arange(50_000))


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(1, 6), d=st.integers(1, 20), ring_bits=st.sampled_from([32, 64]), max_weight=st.integers(1, 3000),
    extra=st.integers(0, 50), scale=st.sampled_from([0.01, 1.0, 100.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_decoded_sum_is_the_mean_up_to_the_step(
    n: int, d: int, ring_bits: int, max_weight: int, extra: int, scale: float, seed: int
) -> None:
    random = generator("fixed", seed)
    values = scale * torch.randn(n, d, generator=random, dtype=torch.float64)
    weights = torch.randint(1, max_weight + 1, (n,), generator=random).double()
    bits = most_bits(max_weight, n + extra, ring_bits)
    fixed = FixedPoint(value_range=1.0, bits=bits, max_weight=max_weight, capacity=n + extra, ring_bits=ring_bits)
    words = fixed.encode(values, weights, draws(n))
    total = words.sum(axis=0, dtype=words.dtype)
    exact = [sum(int(word) for word in column) for column in words.T]
    assert [int(word) for word in total] == exact
    mean, weight = fixed.decode(total)
    assert weight == int(weights.sum())
    truth = (weights @ values.clip(-1, 1)) / weights.sum()
    # each row is rounded by less than one word
    assert np.abs(mean - truth.numpy()).max() <= n * fixed.step / weight + 1e-9


@pytest.mark.parametrize("ring_bits", [32, 64])
@pytest.mark.parametrize(("max_weight", "capacity"), [(1, 2), (1, 500), (1024, 16), (600, 100), (4096, 1000)])
def test_sums_are_exact_at_saturation(ring_bits: int, max_weight: int, capacity: int) -> None:
    """The largest sum there can be is below the ring; one more bit would not be."""
    bits = most_bits(max_weight, capacity, ring_bits)
    fixed = FixedPoint(value_range=0.5, bits=bits, max_weight=max_weight, capacity=capacity, ring_bits=ring_bits)
    values, weights = torch.full((capacity, 2), 9.0), torch.full((capacity,), float(max_weight))
    values[:, 1] = -9.0
    words = fixed.encode(values, weights, draws(capacity))
    assert (words[:, 0] == max_weight * fixed.levels).all()
    assert (words[:, 1] == 0).all()
    total = words.sum(axis=0, dtype=words.dtype)
    assert int(total[0]) == capacity * max_weight * fixed.levels < 1 << ring_bits
    assert fixed.decode(total)[0] == pytest.approx([0.5, -0.5], abs=1e-12)
    wider = capacity * max_weight * (2 ** (bits + 1) - 1) >= 1 << ring_bits
    assert wider or max_weight * (2 ** (bits + 1) - 1) > 1 << 52
    with pytest.raises(ValueError, match="does not fit"):
        FixedPoint(value_range=0.5, bits=bits + 1, max_weight=max_weight, capacity=capacity, ring_bits=ring_bits)


def test_rounding_is_unbiased_and_seeded() -> None:
    fixed = FixedPoint(value_range=1.0, bits=8, max_weight=1, capacity=2, ring_bits=32)
    values, ones = torch.full((1, 40_000), 0.1234), torch.ones(1)
    words = fixed.encode(values, ones, draws(1))
    assert np.array_equal(words, fixed.encode(values, ones, draws(1)))
    assert len(np.unique(words[0, :-1])) == 2
    true = (float(values[0, 0]) + 1) / fixed.step
    assert words[0, :-1].mean() == pytest.approx(true, abs=5 * 0.5 / 200)


def test_refuses_what_it_cannot_hold() -> None:
    fixed = FixedPoint(value_range=1.0, bits=8, max_weight=10, capacity=4, ring_bits=32)
    for weight in (11.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="whole number"):
            fixed.encode(torch.zeros(1, 1), torch.tensor([weight]), draws(1))
    with pytest.raises(ValueError, match="infinity"):
        fixed.encode(torch.tensor([[float("nan")]]), torch.ones(1), draws(1))
    assert fixed.decode(np.zeros(3, np.uint32))[1] == 0


def test_nothing_bounds_a_client_that_lies() -> None:
    """Under a mask nobody sees that a value is out of range: it moves the sum as far as in clear."""
    fixed = FixedPoint(value_range=1.0, bits=12, max_weight=4, capacity=16, ring_bits=32)
    honest = fixed.encode(torch.zeros(3, 1), torch.ones(3), draws(3))
    liar = fixed.encode_unbound(torch.tensor([[-8.0]]), torch.ones(1), draws(1))
    mean, weight = fixed.decode(np.concatenate([honest, fixed.encode_unbound(torch.tensor([[8.0]]), torch.ones(1),
                                                draws(1))]).sum(axis=0, dtype=np.uint32))  # fmt: skip
    assert weight == 4
    assert mean[0] == pytest.approx(2.0, abs=fixed.step)
    assert int(liar[0, 0]) > 1 << 31  # negative: it wraps around, as any word may
