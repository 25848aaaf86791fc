"""Rows split among servers: what a client sends, and what the helpers do with it."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..secure_aggregation.ring import SEED_BYTES, Words, add_mask, dtype_of, mask

_HEADER = struct.Struct("<4sQQ")
_MAGIC = b"fss1"
_BOX = 32 + SEED_BYTES + 16
"""An ephemeral public key, a seed, a tag."""


def split_row(words: Words, helpers: list[bytes], *, round_index: int, sender: int) -> bytes:
    """One row as a client sends it: the leader's share, and for each helper a box with the seed of its share.

    A helper's share is the expansion of a 32-byte seed, so that shares for any number of helpers cost one row of bytes.

    Args:
        words: ``(length,)``.
        helpers: public X25519 keys.
        round_index: the round.
        sender: the client.
    """
    header = _HEADER.pack(_MAGIC, round_index, sender)
    leader, boxes = words.copy(), []
    for number, public in enumerate(helpers):
        seed = secrets.token_bytes(SEED_BYTES)
        add_mask(leader, seed, subtract=True)
        private = X25519PrivateKey.generate()
        ephemeral = private.public_key().public_bytes_raw()
        key = _key(private.exchange(X25519PublicKey.from_public_bytes(public)), ephemeral + public)
        boxes.append(ephemeral + ChaCha20Poly1305(key).encrypt(bytes(12), seed, header + bytes([number])))
    return header + b"".join(boxes) + leader.tobytes()


@dataclass
class Helper:
    """A server beside the leader: opens its boxes, and tells nobody a seed.

    Attributes:
        number: counted from 0.
        private: its key.
    """

    number: int
    private: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate, repr=False)

    @property
    def party(self) -> str:
        """Whose it is: what it holds is not the leader's."""
        return f"helper:{self.number + 1}"

    @property
    def public(self) -> bytes:
        """Its public key."""
        return self.private.public_key().public_bytes_raw()

    def seed(self, row: bytes) -> bytes:
        """The seed in its box of a row.

        Raises:
            ValueError: the box is not authentic: of another round, sender or helper, or damaged.
        """
        start = _HEADER.size + self.number * _BOX
        box = row[start : start + _BOX]
        ephemeral, header = box[:32], row[: _HEADER.size]
        shared = self.private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        key = _key(shared, ephemeral + self.public)
        try:
            return ChaCha20Poly1305(key).decrypt(bytes(12), box[32:], header + bytes([self.number]))
        except InvalidTag:
            raise ValueError(f"the share for helper {self.number + 1} is not authentic") from None

    def total(self, seeds: list[bytes], length: int, ring_bits: int) -> Words:
        """The sum of its shares: the only words that it tells the leader."""
        words = np.zeros(length, dtype_of(ring_bits))
        for seed in seeds:
            add_mask(words, seed)
        return words


@dataclass
class Accumulator:
    """What the servers hold of the rows so far.

    Attributes:
        total: the leader's sum.
        seeds: for each helper those of its shares.
        senders: whose rows are in it.
        refused: whose rows the servers refused.
    """

    total: Words
    seeds: list[list[bytes]]
    senders: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class SharingScheme:
    """The servers of one round; the helpers are reached through it and their keys are their own.

    Attributes:
        round: the round.
        length: words of a row.
        ring_bits: 32 or 64.
        capacity: rows that one sum may have.
        dtype: of the federation's updates.
        accepts: the servers' check of the shares ``(servers, length)`` of a row.
    """

    round: int
    length: int
    ring_bits: int
    capacity: int
    dtype: torch.dtype
    helpers: tuple[Helper, ...] = field(repr=False)
    accepts: Callable[[Words], bool] | None = field(default=None, repr=False, compare=False)

    def start(self, row: bytes) -> Accumulator:
        """The servers' memory after one row."""
        fresh = Accumulator(np.zeros(self.length, dtype_of(self.ring_bits)), [[] for _ in self.helpers])
        return self.add(fresh, row)

    def add(self, accumulator: Accumulator, row: bytes) -> Accumulator:
        """One more row, in place; a row that the servers' check refuses is left out and remembered.

        Raises:
            ValueError: a row of another round or length, a second one of a sender, or a box that is not authentic.
            OverflowError: more rows than the ring has room for.
        """
        if len(accumulator.senders) >= self.capacity:
            raise OverflowError(f"a sum of more than {self.capacity} rows could wrap around; set `capacity`")
        sender, leader = self._read(row)
        if sender in accumulator.senders or sender in accumulator.refused:
            raise ValueError(f"a second row of {sender}")
        seeds = [helper.seed(row) for helper in self.helpers]
        if self.accepts is not None:
            shares = [leader, *(mask(seed, self.length, self.ring_bits) for seed in seeds)]
            if not self.accepts(np.stack(shares)):
                accumulator.refused.append(sender)
                return accumulator
        accumulator.senders.append(sender)
        accumulator.total += leader
        for held, seed in zip(accumulator.seeds, seeds, strict=True):
            held.append(seed)
        return accumulator

    def finish(self, accumulator: Accumulator) -> bytes:
        """What the leader has in the end: its own sum, each helper's sum, and who was refused."""
        sums = [h.total(seeds, self.length, self.ring_bits) for h, seeds in zip(self.helpers, accumulator.seeds,
                                                                                strict=True)]  # fmt: skip
        refused = struct.pack(f"<I{len(accumulator.refused)}Q", len(accumulator.refused), *accumulator.refused)
        return refused + accumulator.total.tobytes() + b"".join(part.tobytes() for part in sums)

    def opened(self, total: bytes) -> tuple[Words, list[int]]:
        """The sum of the rows, and who was refused."""
        count = int.from_bytes(total[:4], "little")
        refused = list(struct.unpack(f"<{count}Q", total[4 : 4 + 8 * count]))
        parts = np.frombuffer(total[4 + 8 * count :], dtype_of(self.ring_bits)).reshape(-1, self.length)
        return parts.sum(axis=0, dtype=parts.dtype), refused

    def reveal(self, row: bytes) -> Words:
        """What all servers together read of one row."""
        _, leader = self._read(row)
        words = leader.copy()
        for helper in self.helpers:
            add_mask(words, helper.seed(row))
        return words

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on the wire."""
        return _HEADER.size + len(self.helpers) * _BOX + self.length * self.ring_bits // 8

    def _read(self, row: bytes) -> tuple[int, Words]:
        if len(row) != self.row_bytes:
            raise ValueError(f"a row of {len(row)} bytes where {self.row_bytes} were agreed")
        magic, number, sender = _HEADER.unpack_from(row)
        if magic != _MAGIC or number != self.round:
            raise ValueError(f"a row of round {number}, not {self.round}")
        start = _HEADER.size + len(self.helpers) * _BOX
        return sender, np.frombuffer(row, dtype_of(self.ring_bits), offset=start)


def _key(shared: bytes, context: bytes) -> bytes:
    return HKDF(SHA256(), SEED_BYTES, salt=None, info=b"fedsec secret sharing 1" + context).derive(shared)
