"""Computing on additive shares among servers that follow the protocol and are curious (Beaver, CRYPTO 1991).

A value is an array of ``s`` shares along its first axis, one per server, whose sum modulo 2**64 (or XOR, for bits) it
is. Correlated randomness comes from a dealer who talks to nobody afterwards: a simplification, since real servers make
it themselves beforehand (by oblivious transfer or homomorphic encryption). Teaching grade: a server that lies is not
noticed.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
"""``(servers, *shape)`` shares, or ``shape`` values, modulo 2**64."""


@dataclass
class Traffic:
    """What servers sent each other.

    Attributes:
        bytes: all together.
        rounds: messages that had to wait for others.
        dealt: bytes of correlated randomness that the dealer gave them beforehand.
    """

    bytes: int = 0
    rounds: int = 0
    dealt: int = 0

    def opened(self, shares: Words, *, rounds: int = 1) -> None:
        """Count an opening: every server sends its share to all others."""
        servers = shares.shape[0]
        self.bytes += shares[0].nbytes * servers * (servers - 1)
        self.rounds += rounds


def uniform(shape: tuple[int, ...]) -> Words:
    """Uniform words from the operating system's randomness."""
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(secrets.token_bytes(8 * count), np.uint64).reshape(shape).copy()


def share(values: Words, servers: int) -> Words:
    """Additive shares ``(servers, *shape)``; all but the last are uniform."""
    first = uniform((servers - 1, *values.shape))
    return np.concatenate([first, (values - first.sum(axis=0, dtype=np.uint64))[None]])


def share_bits(values: Words, servers: int) -> Words:
    """XOR shares ``(servers, *shape)`` of the bits of words."""
    first = uniform((servers - 1, *values.shape))
    return np.concatenate([first, (values ^ np.bitwise_xor.reduce(first, axis=0))[None]])


def opened(shares: Words, traffic: Traffic) -> Words:
    """The values behind additive shares, told to all servers."""
    traffic.opened(shares)
    return np.asarray(shares.sum(axis=0, dtype=np.uint64), dtype=np.uint64)


def opened_bits(shares: Words, traffic: Traffic) -> Words:
    """The words behind XOR shares, told to all servers."""
    traffic.opened(shares)
    return np.asarray(np.bitwise_xor.reduce(shares, axis=0), dtype=np.uint64)


def plus(shares: Words, values: Words | np.uint64) -> Words:
    """Shares of the sum with a public value: one server adds it."""
    result = shares.copy()
    result[0] += values
    return result


def flipped(shares: Words) -> Words:
    """XOR shares of the complement."""
    result = shares.copy()
    result[0] = ~result[0]
    return result


class Dealer:
    """Deals correlated randomness, and counts it."""

    def __init__(self, servers: int, traffic: Traffic) -> None:
        self.servers, self._traffic = servers, traffic

    def triple(self, shape: tuple[int, ...]) -> tuple[Words, Words, Words]:
        """Additive shares of uniform ``a``, ``b`` and of ``a b``."""
        a, b = uniform(shape), uniform(shape)
        return self._deal(a), self._deal(b), self._deal(a * b)

    def square(self, shape: tuple[int, ...]) -> tuple[Words, Words]:
        """Additive shares of uniform ``a`` and of ``a a``."""
        a = uniform(shape)
        return self._deal(a), self._deal(a * a)

    def bit_triple(self, shape: tuple[int, ...]) -> tuple[Words, Words, Words]:
        """XOR shares of uniform words ``a``, ``b`` and of ``a & b``."""
        a, b = uniform(shape), uniform(shape)
        return self._deal_bits(a), self._deal_bits(b), self._deal_bits(a & b)

    def random(self, shape: tuple[int, ...]) -> tuple[Words, Words]:
        """Additive shares of a uniform word, and XOR shares of its bits."""
        r = uniform(shape)
        return self._deal(r), self._deal_bits(r)

    def _deal(self, values: Words) -> Words:
        self._traffic.dealt += values.nbytes * self.servers
        return share(values, self.servers)

    def _deal_bits(self, values: Words) -> Words:
        self._traffic.dealt += values.nbytes * self.servers
        return share_bits(values, self.servers)


def multiplied(x: Words, y: Words, dealer: Dealer, traffic: Traffic) -> Words:
    """Shares of the product: ``x y = c + (x - a) b + (y - b) a + (x - a)(y - b)``; one round, two openings.

    What is opened, ``x - a`` and ``y - b``, is uniform.
    """
    a, b, c = dealer.triple(x.shape[1:])
    both = opened(np.stack([x - a, y - b], axis=1), traffic)
    d, e = both[0], both[1]
    return plus(c + d * b + e * a, d * e)


def squared(x: Words, dealer: Dealer, traffic: Traffic) -> Words:
    """Shares of the square: ``x x = c + 2 (x - a) a + (x - a)**2``; one round, one opening."""
    a, c = dealer.square(x.shape[1:])
    d = opened(x - a, traffic)
    return plus(c + np.uint64(2) * d * a, d * d)


def both_bits(x: Words, y: Words, dealer: Dealer, traffic: Traffic) -> Words:
    """XOR shares of ``x & y``, word by word; one round, two openings."""
    a, b, c = dealer.bit_triple(x.shape[1:])
    both = opened_bits(np.stack([x ^ a, y ^ b], axis=1), traffic)
    d, e = both[0], both[1]
    result: Words = c ^ (d & b) ^ (e & a)
    result[0] ^= d & e
    return result
