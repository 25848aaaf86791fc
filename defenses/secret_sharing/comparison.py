"""Comparisons of shared numbers: only the answer is opened."""

from __future__ import annotations

import numpy as np

from .arithmetic import Dealer, Traffic, Words, both_bits, flipped, opened, opened_bits

_ONE = np.uint64(1)
_TOP = np.uint64(63)


def bits_of(x: Words, dealer: Dealer, traffic: Traffic) -> Words:
    """XOR shares of the bits of shared words: ``x = c - r`` with ``c = x + r`` opened and the bits of ``r`` shared.

    The word ``c`` is uniform, so it tells nothing. The borrows of the subtraction come from a parallel prefix over
    (generate, propagate) pairs (Kogge and Stone 1973): six levels for 64 bits, all bits of a word at once.

    Args:
        x: ``(servers, *shape)`` additive shares.
        dealer: gives ``r`` and bit triples.
        traffic: counts; seven rounds.
    """
    mask, bits = dealer.random(x.shape[1:])
    c = opened(x + mask, traffic)
    # bit i borrows by itself if c_i = 0 and r_i = 1, and hands a borrow on if c_i = r_i
    generate: Words = ~c & bits
    difference = bits.copy()
    difference[0] ^= c
    propagate = flipped(difference)
    for hop in (1, 2, 4, 8, 16, 32):
        shift = np.uint64(hop)
        pair = np.stack([propagate, propagate], axis=1)
        # below the lowest bit nothing borrows, and nothing is handed on
        lower = np.stack([generate << shift, propagate << shift], axis=1)
        product = both_bits(pair, lower, dealer, traffic)
        generate, propagate = generate ^ product[:, 0], product[:, 1]
    return difference ^ (generate << _ONE)


def is_negative(x: Words, dealer: Dealer, traffic: Traffic) -> Words:
    """XOR shares (in the lowest bit) of whether ``x``, read as a signed number, is below zero."""
    return bits_of(x, dealer, traffic) >> _TOP


def at_most(x: Words, bound: Words, dealer: Dealer, traffic: Traffic) -> Words:
    """Whether ``x <= bound`` for shared ``x`` and ``bound``, told to all servers; 1 or 0 of ``shape``.

    Right if the difference is below 2**63 in magnitude.
    """
    return opened_bits(flipped(is_negative(bound - x, dealer, traffic)) & _lowest(x), traffic)


def any_high_bit(x: Words, kept: int, dealer: Dealer, traffic: Traffic) -> Words:
    """XOR shares (in the lowest bit) of whether ``x >= 2**kept``, for ``0 < kept < 64``."""
    high = bits_of(x, dealer, traffic) >> np.uint64(kept)
    # a or b = not (not a and not b), halving the word
    for hop in (32, 16, 8, 4, 2, 1):
        if hop < 64 - kept:
            high = either(high, high >> np.uint64(hop), dealer, traffic)
    return high & _ONE


def either(x: Words, y: Words, dealer: Dealer, traffic: Traffic) -> Words:
    """XOR shares of ``x | y``; one round."""
    return flipped(both_bits(flipped(x), flipped(y), dealer, traffic))


def any_of(bits: Words, dealer: Dealer, traffic: Traffic) -> Words:
    """XOR shares ``(servers,)`` of whether any of ``(servers, n)`` shared bits is set, in ``log2 n`` rounds."""
    while bits.shape[1] > 1:
        half = bits.shape[1] // 2
        joined = either(bits[:, :half], bits[:, half : 2 * half], dealer, traffic)
        bits = np.concatenate([joined, bits[:, 2 * half :]], axis=1)
    return bits[:, 0] & _ONE


def _lowest(x: Words) -> Words:
    """1 for every share: keeps what flipping sets in the higher bits out."""
    return np.ones_like(x)
