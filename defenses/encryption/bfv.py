"""Homomorphic encryption of whole numbers: several quantised entries per slot, and sums that are exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fedsec.protocol.stage import Guarantee, Setting
from fedsec.threat import Paper

from .bfv_scheme import DEGREE, ROOM_BITS, BFVKeys, BFVScheme, most_rows
from .encryptors import Encryptor, bfv_encryptor
from .integer_sums import IntegerSums
from .quantised import Integers, Lanes, carry_bits

_CIPHERTEXT_BYTES = 129 * 1024
"""A ciphertext of two polynomials of 8192 words, with its frame, in whole KiB."""


@dataclass(frozen=True, kw_only=True)
class BFV(IntegerSums):
    """Additively homomorphic averaging with BFV: exact, and smaller than CKKS because a slot holds several entries.

    Each entry of ``w / largest_weight * update`` is rounded at random to one of ``2**bits - 1`` values in
    ``[-bound, bound]``, and as many codes as fit share a slot of 41 bits (`Lanes` proves that their sums never meet:
    ``rows * (2**bits - 2) < 2**width`` and ``lanes * width <= 41``; checked again when a row is encrypted, and
    rows are counted when they are added). Two entries of 14 bits for up to 64 clients take 8 bytes each.

    BFV decrypts exactly, so what is opened says nothing about the key, unlike in an approximate scheme. The count of
    rows and the weight are encrypted too. A malicious client that speaks the wire format is bound by its range: it
    sends entries of at most ``bound`` and a weight of at most ``largest_weight`` (a client with its own encoder could
    write into other lanes; a proof of range, which this scheme does not have, would refuse that).

    The simulation keeps the key pair in the process; parties are told apart by what they are given: clients
    encrypt and the server adds with a context that never held the secret key.
    """

    name: ClassVar[str] = "bfv"
    summary: ClassVar[str] = "Encrypts quantised updates, several entries to a slot, so that sums are exact (BFV)"
    paper: ClassVar[Paper | None] = Paper(
        title="Somewhat Practical Fully Homomorphic Encryption",
        authors="Fan, Vercauteren",
        venue="IACR ePrint 2012/144",
        where="section 4: encryption, addition; packing of quantised entries after BatchCrypt (USENIX ATC 2020)",
    )
    cost: ClassVar[str] = (
        "milliseconds per upload; about twice the bytes at 14 bits, and no less than one ciphertext (132 kB); "
        "rounding noise of one step"
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="single updates and their weights",
        against="the server, and whoever listens to its channels",
        assuming="the server does not collude with a holder of the key. The sum is not protected from the holders, "
        "and poisoned updates cannot be told from honest ones",
    )

    @property
    def encryptor(self) -> Callable[[bytes], Encryptor]:
        """See `IntegerSums.encryptor`."""
        return bfv_encryptor

    def lanes(self, rows: int) -> Lanes:
        """How entries share a slot if a sum has so many rows."""
        return Lanes(self.bits, rows, ROOM_BITS)

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Sums that do not fit a slot, and more of them than the noise allows."""
        rows, found = self.rows(setting), []
        if self.lanes(rows).count < 1:
            found.append(
                (
                    f"a sum of {rows} entries of {self.bits} bits takes {self.lanes(rows).width} bits, and a slot "
                    f"has {ROOM_BITS}",
                    f"set `bits: {max(2, ROOM_BITS - carry_bits(rows))}`",
                )
            )
        if rows > most_rows():
            found.append(
                (f"the noise of a sum of {rows} ciphertexts could reach its limit", f"set `capacity: {most_rows()}`")
            )
        found.extend(self.weight_problems(setting))
        if rows * (self.largest_weight or 1) >= 2**ROOM_BITS:
            found.append((f"weights of {rows} rows do not fit a slot", "lower `largest_weight`"))
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Key custody, security level, exactness and bytes."""
        size, lanes = setting.layout.size, self.lanes(self.rows(setting))
        ciphertexts = -(-(2 + -(-size // lanes.count)) // DEGREE)
        return {
            **super().claims(setting),
            "security_bits": 128.0,
            "entries_per_slot": float(lanes.count),
            "upload_bytes": float(ciphertexts * _CIPHERTEXT_BYTES),
        }

    def keys(self) -> BFVKeys:
        """See `IntegerSums.keys`."""
        return BFVKeys.make()

    def public_side(self, public: bytes, size: int, rows: int, dtype: torch.dtype) -> BFVScheme:
        """See `IntegerSums.public_side`."""
        return BFVScheme(public, size, self.lanes(rows), dtype)

    def totals(self, keys: Any, scheme: Any, row: bytes) -> Integers:
        """See `IntegerSums.totals`."""
        opened: Integers = scheme.totals(keys, row)
        return opened

    def sealed_by(self, scheme: object) -> bool:
        """See `IntegerSums.sealed_by`."""
        return isinstance(scheme, BFVScheme)
