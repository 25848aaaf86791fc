"""Paillier (1999) with several codes in one plaintext: keys, packing, sums. Arithmetic by phe and gmpy2."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import gmpy2
import numpy as np
import torch
from phe import PaillierPrivateKey, PaillierPublicKey, generate_paillier_keypair

from .encryptors import big_integer
from .quantised import Integers, carry_bits

SECURITY_BITS = {2048: 112.0, 3072: 128.0}
"""Of factoring a modulus of so many bits (NIST SP 800-57 part 1, table 2)."""
HEADER_BITS = 64
"""The first plaintext of a row begins with the count of rows and the total weight."""
_COUNT_BITS = 22


@dataclass(frozen=True)
class PaillierKeys:
    """A key pair.

    Attributes:
        public: the modulus ``n``, big-endian.
        secret: its factors; only holders of the key may touch them.
    """

    public: bytes
    secret: PaillierPrivateKey = field(repr=False)

    @classmethod
    def make(cls, bits: int) -> PaillierKeys:
        """Fresh keys from the operating system's randomness.

        Args:
            bits: of the modulus.
        """
        public, secret = generate_paillier_keypair(n_length=bits)
        return cls(public.n.to_bytes(bits // 8, "big"), secret)

    def decrypt(self, ciphertext: bytes) -> int:
        """The plaintext in ``[0, n)``; meaningless if it was encrypted under another key."""
        opened: int = self.secret.raw_decrypt(int.from_bytes(ciphertext, "big"))
        return opened


@dataclass(frozen=True)
class Places:
    """Where the codes of a row lie: lanes of ``width`` bits, in the first plaintext behind `HEADER_BITS` of header.

    The sum of ``rows`` codes of ``bits`` bits is below ``2**width`` (as in `quantised.Lanes`), the counts below
    ``2**22`` and the weights below ``2**42``; so no lane reaches into the next. A plaintext uses ``key_bits - 1``
    bits, and ``n > 2**(key_bits - 1)``: no sum wraps around.

    Attributes:
        size: codes of a row.
        bits: of a code.
        rows: of a sum, at most.
        key_bits: of the modulus.
    """

    size: int
    bits: int
    rows: int
    key_bits: int

    @property
    def width(self) -> int:
        """Bits of a lane."""
        return self.bits + carry_bits(self.rows)

    @property
    def starts(self) -> list[int]:
        """The first code of each plaintext, and the number of codes at the end."""
        first = (self.key_bits - 1 - HEADER_BITS) // self.width
        each = (self.key_bits - 1) // self.width
        return [0, *range(min(first, self.size), self.size, each), self.size]

    def pack(self, row: Integers) -> Iterator[int]:
        """The plaintexts of a row ``[1, w, codes (size,)]``.

        Raises:
            OverflowError: an entry is none of these, or a sum of as many would not fit.
        """
        count, weight, codes = int(row[0]), int(row[1]), row[2:]
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) <= 2**self.bits - 2:
            raise OverflowError(f"a code outside of 0 ... 2^{self.bits} - 2")
        fits = count * self.rows < 2**_COUNT_BITS and weight * self.rows < 2 ** (HEADER_BITS - _COUNT_BITS)
        if not fits or min(count, weight) < 0 or self.rows * (2**self.bits - 2) >= 2**self.width:
            raise OverflowError(f"a sum of {self.rows} such rows does not fit its lanes")
        starts = self.starts
        for place, (start, stop) in enumerate(pairwise(starts)):
            packed = joined(codes[start:stop], self.width)
            yield packed if place else packed << HEADER_BITS | weight << _COUNT_BITS | count

    def unpack(self, plaintexts: list[int]) -> Integers:
        """The sum of rows behind the sums of their plaintexts."""
        starts = self.starts
        head = plaintexts[0] & (1 << HEADER_BITS) - 1
        found = [head & (1 << _COUNT_BITS) - 1, head >> _COUNT_BITS]
        mask = (1 << self.width) - 1
        for place, (start, stop) in enumerate(pairwise(starts)):
            rest = plaintexts[place] if place else plaintexts[place] >> HEADER_BITS
            found += [rest >> (lane * self.width) & mask for lane in range(stop - start)]
        return np.array(found, dtype=np.int64)


def joined(codes: Integers, width: int) -> int:
    """``sum_k codes[k] 2**(k width)``, pairs of neighbours first, because shifting a growing sum is quadratic."""
    values: list[int] = codes.tolist()
    while len(values) > 1:
        if len(values) % 2:
            values.append(0)
        values = [low | high << width for low, high in zip(values[::2], values[1::2], strict=True)]
        width *= 2
    return values[0] if values else 0


@dataclass
class Running:
    """A running sum: one product of ciphertexts per plaintext, and how many rows it holds."""

    parts: list[Any]
    rows: int


@dataclass(frozen=True)
class PaillierScheme:
    """What the server and the clients share. No secret can be reached from it.

    Attributes:
        public: the modulus, big-endian.
        places: how a row is laid out.
        dtype: of the federation's updates, so that the opener gives back what the clients had.
    """

    public: bytes = field(repr=False)
    places: Places
    dtype: torch.dtype

    @cached_property
    def key_id(self) -> str:
        """A hash of the public key."""
        return hashlib.blake2b(self.public, digest_size=16).hexdigest()

    @cached_property
    def key(self) -> PaillierPublicKey:
        """The public key."""
        return PaillierPublicKey(int.from_bytes(self.public, "big"))

    @property
    def _ciphertext_bytes(self) -> int:
        return self.places.key_bits // 4

    def chunks(self, row: Integers) -> Iterator[bytes]:
        """What each ciphertext of a row encrypts: a plaintext, little-endian."""
        for plaintext in self.places.pack(row):
            yield plaintext.to_bytes(self.places.key_bits // 8, "little")

    def encrypt_chunk(self, chunk: bytes) -> bytes:
        """One ciphertext, with fresh randomness."""
        return big_integer(self.key, chunk)

    def join(self, parts: list[bytes]) -> bytes:
        """The ciphertexts of a row as one row; all have one length."""
        return b"".join(parts)

    def totals(self, keys: PaillierKeys, row: bytes) -> Integers:
        """What the key holder reads of a sum: ``[rows, weight, sums of codes]``."""
        return self.places.unpack([keys.decrypt(part) for part in self._split(row)])

    def start(self, row: bytes) -> Running:
        """An accumulator that holds one row.

        Raises:
            ValueError: the row is not a ciphertext of the right length.
        """
        return Running(self._numbers(row), 1)

    def add(self, accumulator: Running, row: bytes) -> Running:
        """The accumulator with one more row: ciphertexts are multiplied modulo ``n^2``.

        Raises:
            ValueError: the row is not a ciphertext of the right length.
            OverflowError: more rows than the lanes have room for.
        """
        if accumulator.rows >= self.places.rows:
            raise OverflowError(f"a sum of more than {self.places.rows} encrypted rows could overflow; set `capacity`")
        modulus = self._square
        numbers = self._numbers(row)
        accumulator.parts = [a * b % modulus for a, b in zip(accumulator.parts, numbers, strict=True)]
        accumulator.rows += 1
        return accumulator

    def finish(self, accumulator: Running) -> bytes:
        """The sum as bytes."""
        return b"".join(int(part).to_bytes(self._ciphertext_bytes, "big") for part in accumulator.parts)

    @cached_property
    def _square(self) -> Any:
        return gmpy2.mpz(self.key.nsquare)

    def _split(self, row: bytes) -> list[bytes]:
        size, count = self._ciphertext_bytes, len(self.places.starts) - 1
        if len(row) != size * count:
            raise ValueError(f"a row of {len(row)} bytes, expected {count} ciphertexts of {size}")
        return [row[at : at + size] for at in range(0, len(row), size)]

    def _numbers(self, row: bytes) -> list[Any]:
        numbers = [gmpy2.mpz.from_bytes(part, "big") for part in self._split(row)]
        if any(not 0 < number < self._square for number in numbers):
            raise ValueError("a number that is no ciphertext under this key")
        return numbers
