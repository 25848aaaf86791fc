"""What the server and the clients share of a TenSEAL scheme: a public context, and sums of ciphertexts."""

from __future__ import annotations

import hashlib
import struct
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import tenseal as ts

_BLOCK = 1024


@dataclass
class Accumulator:
    """A running sum.

    Attributes:
        parts: one ciphertext per chunk.
        rows: how many rows it holds.
    """

    parts: list[Any]
    rows: int


@dataclass(frozen=True)
class PublicContext:
    """Parameters and the public key, with which anyone encrypts and adds. No secret can be reached from it.

    Attributes:
        public: serialised public context.
    """

    public: bytes = field(repr=False)

    @cached_property
    def key_id(self) -> str:
        """A hash of the public key: says which secret key opens a row, and nothing more."""
        return hashlib.blake2b(self.public, digest_size=16).hexdigest()

    @cached_property
    def context(self) -> Any:
        """The public context.

        Raises:
            PermissionError: the bytes hold a secret key.
        """
        context = ts.context_from(self.public, n_threads=1)
        if context.has_secret_key():
            raise PermissionError("the server's context holds the secret key; serialise it without")
        return context

    @property
    @abstractmethod
    def most(self) -> int:
        """Rows that one sum may have."""

    @property
    @abstractmethod
    def sizes(self) -> list[int]:
        """Encrypted values of each chunk of a row."""

    @abstractmethod
    def load(self, part: bytes) -> Any:
        """One ciphertext."""

    def start(self, row: bytes) -> Accumulator:
        """An accumulator that holds one row.

        Raises:
            ValueError: the row is not a ciphertext of the right length.
        """
        return Accumulator(self._parts(row), 1)

    def add(self, accumulator: Accumulator, row: bytes) -> Accumulator:
        """The accumulator with one more row; it is changed in place.

        Raises:
            ValueError: the row is not a ciphertext of the right length.
            OverflowError: more rows than the range of the scheme was divided among.
        """
        if accumulator.rows >= self.most:
            raise OverflowError(f"a sum of more than {self.most} encrypted rows could wrap around; set `capacity`")
        for total, part in zip(accumulator.parts, self._parts(row), strict=True):
            total.add_(part)
        accumulator.rows += 1
        return accumulator

    def finish(self, accumulator: Accumulator) -> bytes:
        """The sum as bytes."""
        return pack([part.serialize() for part in accumulator.parts])

    def _parts(self, row: bytes) -> list[Any]:
        parts = [self.load(part) for part in unpack(row)]
        sizes = self.sizes
        if [part.size() for part in parts] != sizes:
            raise ValueError(f"a row of {sum(part.size() for part in parts)} encrypted values, expected {sum(sizes)}")
        return parts


def chunk_sizes(length: int, slots: int) -> list[int]:
    """Values of each ciphertext of a row of ``length``."""
    return [min(slots, length - start) for start in range(0, length, slots)]


def public_bytes(context: Any) -> bytes:
    """A context as others get it: with the public key alone, no secret, no Galois and no relinearisation keys."""
    serialised: bytes = context.serialize(
        save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return serialised


def pack(parts: list[bytes]) -> bytes:
    """Ciphertexts as one row: each with its length before it (4 bytes, little-endian) and zeros up to whole KiB.

    Serialised ciphertexts are compressed, so their sizes differ by a few bytes at random; padded ones do not, and
    neither do the bytes that a report counts.
    """
    framed = (struct.pack("<I", len(part)) + part for part in parts)
    return b"".join(frame + bytes(-len(frame) % _BLOCK) for frame in framed)


def unpack(row: bytes) -> list[bytes]:
    """The ciphertexts of a row.

    Raises:
        ValueError: the lengths do not add up, or the padding is not zero.
    """
    parts: list[bytes] = []
    place = 0
    while place < len(row):
        size = int.from_bytes(row[place : place + 4], "little")
        end = place + 4 + size
        place, start = end + -(4 + size) % _BLOCK, place + 4
        if place > len(row) or any(row[end:place]):
            raise ValueError("a damaged row of ciphertexts")
        parts.append(row[start:end])
    return parts
