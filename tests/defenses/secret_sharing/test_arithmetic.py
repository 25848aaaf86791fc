"""Arithmetic on shares against arithmetic in clear, and what an opening shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedsec.defenses.secret_sharing.arithmetic import (
    Dealer,
    Traffic,
    Words,
    both_bits,
    multiplied,
    opened,
    opened_bits,
    share,
    share_bits,
    squared,
    uniform,
)
from fedsec.defenses.secret_sharing.comparison import any_high_bit, any_of, at_most, bits_of, either, is_negative

WORD = st.integers(0, 2**64 - 1)
EDGES = st.sampled_from([0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])


def words(values: list[int]) -> Words:
    return np.array(values, dtype=np.uint64)


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(WORD | EDGES, WORD | EDGES), min_size=1, max_size=6),
    servers=st.integers(2, 5),
)
def test_products_squares_and_bits(pairs: list[tuple[int, int]], servers: int) -> None:
    x, y = words([a for a, _ in pairs]), words([b for _, b in pairs])
    traffic = Traffic()
    dealer = Dealer(servers, traffic)
    shared_x, shared_y = share(x, servers), share(y, servers)
    product = opened(multiplied(shared_x, shared_y, dealer, traffic), traffic)
    assert [int(v) for v in product] == [a * b % 2**64 for a, b in pairs]
    square = opened(squared(shared_x, dealer, traffic), traffic)
    assert [int(v) for v in square] == [a * a % 2**64 for a, _ in pairs]
    bits_x, bits_y = share_bits(x, servers), share_bits(y, servers)
    assert [int(v) for v in opened_bits(both_bits(bits_x, bits_y, dealer, traffic), traffic)] == [
        a & b for a, b in pairs
    ]
    assert [int(v) for v in opened_bits(either(bits_x, bits_y, dealer, traffic), traffic)] == [a | b for a, b in pairs]
    assert [int(v) for v in opened_bits(bits_of(shared_x, dealer, traffic), traffic)] == [a for a, _ in pairs]
    negative = opened_bits(is_negative(shared_x, dealer, traffic), traffic)
    assert [int(v) & 1 for v in negative] == [int(a >= 2**63) for a, _ in pairs]


@settings(deadline=None, max_examples=60)
@given(
    x=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5),
    shift=st.integers(-3, 3),
    far=st.integers(-(2**61), 2**61),
    servers=st.integers(2, 4),
)
def test_at_most(x: list[int], shift: int, far: int, servers: int) -> None:
    for bound in ([v + shift for v in x], [far] * len(x)):
        traffic = Traffic()
        dealer = Dealer(servers, traffic)
        shared = share(words([v % 2**64 for v in x]), servers)
        other = share(words([b % 2**64 for b in bound]), servers)
        found = at_most(shared, other, dealer, traffic)
        assert [int(v) for v in found] == [int(v <= b) for v, b in zip(x, bound, strict=True)]


@settings(deadline=None, max_examples=40)
@given(x=st.lists(WORD | EDGES, min_size=1, max_size=9), kept=st.integers(1, 63), servers=st.integers(2, 3))
def test_high_bits(x: list[int], kept: int, servers: int) -> None:
    traffic = Traffic()
    dealer = Dealer(servers, traffic)
    high = any_high_bit(share(words(x), servers), kept, dealer, traffic)
    assert [int(v) for v in opened_bits(high, traffic)] == [int(v >= 2**kept) for v in x]
    assert int(opened_bits(any_of(high, dealer, traffic), traffic)) == int(max(x) >= 2**kept)


def test_bytes_and_rounds_are_counted() -> None:
    """One word among 3 servers: a product opens two words, a comparison 1 + 6 pairs of two, and the answer."""
    traffic = Traffic()
    dealer = Dealer(3, traffic)
    x = share(words([5]), 3)
    multiplied(x, x, dealer, traffic)
    assert (traffic.bytes, traffic.rounds, traffic.dealt) == (2 * 8 * 6, 1, 3 * 8 * 3)
    squared(x, dealer, traffic)
    assert (traffic.bytes, traffic.rounds) == (3 * 8 * 6, 2)
    traffic = Traffic()
    at_most(x, x, Dealer(3, traffic), traffic)
    assert (traffic.bytes, traffic.rounds) == ((1 + 6 * 4 + 1) * 8 * 6, 1 + 6 + 1)


@pytest.mark.parametrize("value", [0, 12345])
def test_what_a_server_sees_of_a_product_is_uniform(value: int) -> None:
    """All openings of many products of one known value, and all shares but one: chi-square over bytes."""
    seen: list[Words] = []

    class Watched(Traffic):
        def opened(self, shares: Words, *, rounds: int = 1) -> None:
            seen.append(shares.sum(axis=0, dtype=np.uint64))

    traffic = Watched()
    x = share(np.full(4096, value, np.uint64), 2)
    multiplied(x, x, Dealer(2, traffic), traffic)
    bits_of(x, Dealer(2, traffic), traffic)
    assert len(seen) == 1 + 1 + 6
    # the first opening of `bits_of` is arithmetic; those of its levels are read as bits below
    for words_ in (seen[0], seen[1], x[0], x[1]):
        counts = np.bincount(words_.reshape(-1).view(np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-6


def test_shares_do_not_repeat() -> None:
    assert not np.array_equal(share(words([7]), 2), share(words([7]), 2))
    assert len(np.unique(uniform((1000,)))) == 1000
