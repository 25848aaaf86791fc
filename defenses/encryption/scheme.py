"""CKKS (Cheon, Kim, Kim, Song 2017) cut down to what averaging needs: encryption, sums, decryption.

One data prime and the special prime, no Galois and no relinearisation keys. Multiplying by a weight would
need a rescaling prime, so clients multiply before they encrypt and the opener divides after it decrypts.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tenseal as ts
import torch

from .fixed_point import Row

SCALE_BITS = 40
PRIMES = {4096: (54, 54), 8192: (60, 60)}
"""Bits of (data prime, special prime) by degree; the totals 108 and 120 lie inside the 128-bit security table of
the homomorphic encryption standard (ternary secrets: 109 and 218)."""
LIMIT_BITS = {4096: 109, 8192: 218}
_BLOCK = 1024
_TAIL = 24.0
"""Standard deviations that the error of a sum must keep from half a grid step. The error of one slot is the rounding
noise times the secret's value there, a Gaussian of exponential variance: a Laplace tail, exp(-sqrt(2) 24) = 2e-15."""


def error_std(poly_modulus: int) -> float:
    """Standard deviation of one fresh ciphertext's error in a decrypted value.

    Rounding noise of encoding and of dropping the special prime: variance ``(2 + 2N/3) / 12`` per coefficient
    (ternary secret), ``N / 2`` times that in a slot's real part, over the scale squared.
    """
    degree = poly_modulus
    return math.sqrt(degree / 2 * (2 + 2 * degree / 3) / 12) * 2.0**-SCALE_BITS


def largest_sum(poly_modulus: int) -> float:
    """Absolute value that no entry of a sum may reach, or it wraps: ``q / 2`` over the scale, less one bit.

    The data prime of ``b`` bits is larger than ``2**(b - 1)``, so half of it is larger than ``2**(b - 2)``.
    """
    return 2.0 ** (PRIMES[poly_modulus][0] - 2 - SCALE_BITS)


def most_rows(poly_modulus: int, resolution_bits: int) -> int:
    """Rows that one sum may have before its error could reach half a grid step of ``2**-resolution_bits``."""
    return int((2.0 ** -(resolution_bits + 1) / (_TAIL * error_std(poly_modulus))) ** 2)


@dataclass(frozen=True)
class Keys:
    """A key pair.

    Attributes:
        public: serialised context without the secret key; all that encryption and addition need.
        secret: the context with the secret key; only holders of the key may touch it.
    """

    public: bytes
    secret: Any = field(repr=False)

    @classmethod
    def make(cls, poly_modulus: int) -> Keys:
        """Fresh keys from the operating system's randomness (they cannot be seeded).

        Args:
            poly_modulus: degree of the ring, 4096 or 8192.
        """
        context = ts.context(ts.SCHEME_TYPE.CKKS, poly_modulus, -1, list(PRIMES[poly_modulus]), n_threads=1)
        context.global_scale = 2.0**SCALE_BITS
        public = context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        return cls(public, context)

    def decrypt(self, row: bytes) -> Row:
        """The values of a row; meaningless numbers if it was encrypted under another key.

        Returns:
            float64 ``(k,)``.
        """
        key = self.secret.secret_key()
        return np.concatenate([ts.ckks_vector_from(self.secret, part).decrypt(key) for part in unpack(row)])


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
class PublicScheme:
    """What the server and the clients share: parameters and the public key. No secret can be reached from it.

    Attributes:
        public: serialised public context.
        length: entries of a row.
        poly_modulus: degree of the ring.
        capacity: rows that one sum may have.
        dtype: of the federation's updates, so that the opener gives back what the clients had.
    """

    public: bytes = field(repr=False)
    length: int
    poly_modulus: int
    capacity: int
    dtype: torch.dtype

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

    def encrypt(self, row: Row) -> bytes:
        """The bytes of one row.

        Args:
            row: float64 ``(length,)``.
        """
        slots = self.poly_modulus // 2
        parts = [
            ts.ckks_vector(self.context, row[start : start + slots].tolist()).serialize()
            for start in range(0, self.length, slots)
        ]
        return pack(parts)

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
        if accumulator.rows >= self.capacity:
            raise OverflowError(
                f"a sum of more than {self.capacity} encrypted rows could wrap around; set `capacity` of ckks"
            )
        for total, part in zip(accumulator.parts, self._parts(row), strict=True):
            total.add_(part)
        accumulator.rows += 1
        return accumulator

    def finish(self, accumulator: Accumulator) -> bytes:
        """The sum as bytes."""
        return pack([part.serialize() for part in accumulator.parts])

    def _parts(self, row: bytes) -> list[Any]:
        slots = self.poly_modulus // 2
        parts = [ts.ckks_vector_from(self.context, part) for part in unpack(row)]
        sizes = [min(slots, self.length - start) for start in range(0, self.length, slots)]
        if [part.size() for part in parts] != sizes:
            raise ValueError(f"a row of {sum(part.size() for part in parts)} encrypted values, expected {self.length}")
        return parts


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
