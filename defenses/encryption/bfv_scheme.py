"""BFV (Brakerski 2012; Fan, Vercauteren 2012) cut down to sums of integers: encryption, addition, decryption.

One data prime and the special prime, no Galois and no relinearisation keys, batching of ``N`` integers modulo a prime
``t = 1 mod 2N``. Sums are exact as long as no slot reaches ``t`` and the noise stays below ``q / 2t``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tenseal as ts
import torch

from .encryptors import batched_integers
from .public_context import PublicContext, chunk_sizes, pack, public_bytes, unpack
from .quantised import Integers, Lanes

DEGREE = 8192
PRIMES = (60, 60)
"""Bits of (data prime, special prime): 120 in all, inside the 218 of the homomorphic encryption standard's table for
128 bits of security at this degree (ternary secrets)."""
LIMIT_BITS = 218
PLAIN_MODULUS = 4398046150657
"""The largest prime below 2**42 that is 1 modulo 2 N, which batching needs."""
ROOM_BITS = 41
"""Whatever is below ``2**41`` is below the plain modulus."""
_TAIL = 12.0
"""Standard deviations that the noise of a sum keeps from where decryption fails: ``2 exp(-72)`` per coefficient."""


def noise_std() -> float:
    """A bound on the standard deviation of one fresh ciphertext's noise in a coefficient.

    Public-key encryption happens modulo the special prime too; dividing it out leaves the rounding of two polynomials,
    ``e0 + e1 s`` with entries uniform in [-1/2, 1/2] and a ternary ``s``, and the rounding of ``q m / t``: variance
    at most ``(2 + N) / 12`` whatever the key. SEAL scales by the exact ``q / t``, so a sum of messages that wraps
    around ``t`` adds a multiple of ``q`` and no noise.
    """
    return math.sqrt((2 + DEGREE) / 12)


def most_rows() -> int:
    """Rows that one sum may have: ``_TAIL`` deviations of its noise stay below ``q / 2t``, with ``q > 2**59``."""
    limit = 2.0 ** (PRIMES[0] - 1) / (2 * PLAIN_MODULUS)
    return int((limit / (_TAIL * noise_std())) ** 2)


@dataclass(frozen=True)
class BFVKeys:
    """A key pair.

    Attributes:
        public: serialised context without the secret key; all that encryption and addition need.
        secret: the context with the secret key; only holders of the key may touch it.
    """

    public: bytes
    secret: Any = field(repr=False)

    @classmethod
    def make(cls) -> BFVKeys:
        """Fresh keys from the operating system's randomness (they cannot be seeded)."""
        context = ts.context(
            ts.SCHEME_TYPE.BFV, DEGREE, plain_modulus=PLAIN_MODULUS, coeff_mod_bit_sizes=list(PRIMES), n_threads=1
        )
        return cls(public_bytes(context), context)

    def decrypt(self, row: bytes) -> Integers:
        """The integers of a row, in ``[0, t)``; meaningless if it was encrypted under another key.

        Returns:
            int64 ``(k,)``.
        """
        key = self.secret.secret_key()
        parts = [np.array(ts.bfv_vector_from(self.secret, part).decrypt(key), dtype=np.int64) for part in unpack(row)]
        return np.concatenate(parts) % PLAIN_MODULUS


@dataclass(frozen=True)
class BFVScheme(PublicContext):
    """What the server and the clients share. No secret can be reached from it.

    Attributes:
        size: entries of an update.
        lanes: how codes lie in a slot.
        dtype: of the federation's updates, so that the opener gives back what the clients had.
    """

    size: int
    lanes: Lanes
    dtype: torch.dtype

    def chunks(self, row: Integers) -> Iterator[bytes]:
        """What each ciphertext of a row encrypts, as bytes (little-endian int64).

        The count and the weight have a slot each, so that the opener reads them whatever the lanes.

        Args:
            row: ``[1, w, codes (size,)]``.

        Raises:
            OverflowError: a sum of as many rows with this entry could reach the plain modulus.
        """
        slots = np.concatenate([row[:2], self.lanes.pack(row[2:])])
        largest = int(slots.max())
        if int(slots.min()) < 0 or largest * self.lanes.rows >= PLAIN_MODULUS:
            raise OverflowError(f"a sum of {self.lanes.rows} entries like {largest} could wrap around")
        for at in range(0, len(slots), DEGREE):
            yield slots[at : at + DEGREE].astype("<i8").tobytes()

    def encrypt_chunk(self, chunk: bytes) -> bytes:
        """One ciphertext."""
        return batched_integers(self.context, chunk)

    def join(self, parts: list[bytes]) -> bytes:
        """The ciphertexts of a row as one row."""
        return pack(parts)

    def totals(self, keys: BFVKeys, row: bytes) -> Integers:
        """What the key holder reads of a sum: ``[rows, weight, sums of codes]``."""
        slots = keys.decrypt(row)[: self.slots]
        return np.concatenate([slots[:2], self.lanes.unpack(slots[2:], self.size)])

    @property
    def slots(self) -> int:
        """Integers of a packed row."""
        return 2 + -(-self.size // self.lanes.count)

    @property
    def most(self) -> int:
        """See `PublicContext.most`."""
        return min(self.lanes.rows, most_rows())

    @property
    def sizes(self) -> list[int]:
        """See `PublicContext.sizes`."""
        return chunk_sizes(self.slots, DEGREE)

    def load(self, part: bytes) -> Any:
        """See `PublicContext.load`."""
        return ts.bfv_vector_from(self.context, part)
