"""What encrypts one chunk under a public key, in this process or in one that was sent the key.

Little is imported here, so that such a process starts fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Encryptor = Callable[[bytes], bytes]


def batched_integers(context: Any, chunk: bytes) -> bytes:
    """A BFV ciphertext.

    Args:
        context: a public TenSEAL context.
        chunk: little-endian int64, one per slot.
    """
    import numpy as np
    import tenseal as ts

    encrypted: bytes = ts.bfv_vector(context, np.frombuffer(chunk, "<i8").tolist()).serialize()
    return encrypted


def bfv_encryptor(public: bytes) -> Encryptor:
    """What encrypts chunks of whole numbers with BFV."""
    import tenseal as ts

    context = ts.context_from(public, n_threads=1)
    return lambda chunk: batched_integers(context, chunk)


def big_integer(key: Any, chunk: bytes) -> bytes:
    """A Paillier ciphertext with fresh randomness: ``(1 + n m) r^n mod n^2``, big-endian, twice as long as the key.

    Args:
        key: a public key of phe.
        chunk: the plaintext, little-endian.
    """
    encrypted: int = key.raw_encrypt(int.from_bytes(chunk, "little"))
    return encrypted.to_bytes(key.n.bit_length() // 4, "big")


def paillier_encryptor(public: bytes) -> Encryptor:
    """What encrypts chunks with Paillier."""
    from phe import PaillierPublicKey

    key = PaillierPublicKey(int.from_bytes(public, "big"))
    return lambda chunk: big_integer(key, chunk)
