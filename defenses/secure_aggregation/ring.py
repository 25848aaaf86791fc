"""Words modulo 2**32 or 2**64, and masks that are uniform over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

Words = npt.NDArray[np.unsignedinteger[Any]]
"""uint32 or uint64; sums wrap around by themselves."""

SEED_BYTES = 32
"""A mask comes from a full 256-bit key."""
_BLOCK = 1 << 16
"""Bytes of keystream at a time: small enough to stay in a core's cache."""
_ZEROS = bytes(_BLOCK)


def dtype_of(ring_bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Little-endian words of 32 or 64 bits."""
    return np.dtype("<u4" if ring_bits == 32 else "<u8")


def mask(seed: bytes, length: int, ring_bits: int) -> Words:
    """``length`` words of the ChaCha20 keystream under ``seed``: each is uniform over the whole ring."""
    words = np.zeros(length, dtype_of(ring_bits))
    add_mask(words, seed)
    return words


def add_mask(row: Words, seed: bytes, *, subtract: bool = False) -> None:
    """Add the mask of a seed to a row in place, or take it away.

    Args:
        row: ``(length,)`` contiguous little-endian words.
        seed: 32 bytes, used for this row and no other: the nonce is zero.
        subtract: take away instead.

    Raises:
        ValueError: the seed is not 32 bytes long.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a mask needs a seed of {SEED_BYTES} bytes, not {len(seed)}")
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    per_block = _BLOCK // row.itemsize
    # update_into wants room for one more block of the cipher
    buffer = bytearray(_BLOCK + 64)
    words = np.frombuffer(buffer, row.dtype)
    operation = np.subtract if subtract else np.add
    for start in range(0, len(row), per_block):
        part = row[start : start + per_block]
        stream.update_into(memoryview(_ZEROS)[: part.nbytes], buffer)
        operation(part, words[: len(part)], out=part)
