"""CKKS (Cheon, Kim, Kim, Song 2017) cut down to what averaging needs: encryption, sums, decryption.

One data prime and the special prime, no Galois and no relinearisation keys. Multiplying by a weight would
need a rescaling prime, so clients multiply before they encrypt and the opener divides after it decrypts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tenseal as ts
import torch

from .fixed_point import Row
from .public_context import PublicContext, chunk_sizes, pack, public_bytes, unpack

SCALE_BITS = 40
PRIMES = {4096: (54, 54), 8192: (60, 60)}
"""Bits of (data prime, special prime) by degree; the totals 108 and 120 lie inside the 128-bit security table of
the homomorphic encryption standard (ternary secrets: 109 and 218)."""
LIMIT_BITS = {4096: 109, 8192: 218}
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
        return cls(public_bytes(context), context)

    def decrypt(self, row: bytes) -> Row:
        """The values of a row; meaningless numbers if it was encrypted under another key.

        Returns:
            float64 ``(k,)``.
        """
        key = self.secret.secret_key()
        return np.concatenate([ts.ckks_vector_from(self.secret, part).decrypt(key) for part in unpack(row)])


@dataclass(frozen=True)
class PublicScheme(PublicContext):
    """What the server and the clients share: parameters and the public key. No secret can be reached from it.

    Attributes:
        length: entries of a row.
        poly_modulus: degree of the ring.
        capacity: rows that one sum may have.
        dtype: of the federation's updates, so that the opener gives back what the clients had.
    """

    length: int
    poly_modulus: int
    capacity: int
    dtype: torch.dtype

    def encrypt(self, row: Row) -> bytes:
        """The bytes of one row.

        Args:
            row: float64 ``(length,)``.
        """
        slots = self.poly_modulus // 2
        starts = range(0, self.length, slots)
        return pack([ts.ckks_vector(self.context, row[at : at + slots].tolist()).serialize() for at in starts])

    @property
    def most(self) -> int:
        """See `PublicContext.most`."""
        return self.capacity

    @property
    def sizes(self) -> list[int]:
        """See `PublicContext.sizes`."""
        return chunk_sizes(self.length, self.poly_modulus // 2)

    def load(self, part: bytes) -> Any:
        """See `PublicContext.load`."""
        return ts.ckks_vector_from(self.context, part)


__all__ = [
    "LIMIT_BITS",
    "PRIMES",
    "SCALE_BITS",
    "Keys",
    "PublicScheme",
    "error_std",
    "largest_sum",
    "most_rows",
    "pack",
    "unpack",
]
