"""Homomorphic encryption by Paillier: exact sums under one assumption of 1999, for small models only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from fedsec.protocol.stage import Guarantee, Setting
from fedsec.threat import Paper

from .encryptors import Encryptor, paillier_encryptor
from .integer_sums import IntegerSums
from .paillier_scheme import SECURITY_BITS, PaillierKeys, PaillierScheme, Places
from .quantised import Integers

SECONDS = {2048: 0.008, 3072: 0.025}
"""Of one encryption on one core of a server of 2024, with gmpy2; for estimates only."""


@dataclass(frozen=True, kw_only=True)
class Paillier(IntegerSums):
    """Additively homomorphic averaging with Paillier, many codes to a ciphertext.

    Each entry is quantised as for `bfv`, and as many codes as fit in the modulus travel in one ciphertext, side by
    side (BatchCrypt, Zhang et al., USENIX ATC 2020, without its gradient clipping by layer; ``Places`` proves that
    lanes never meet). Every ciphertext has fresh randomness. Entry by entry it would take 512 bytes a number.
    """

    name: ClassVar[str] = "paillier"
    summary: ClassVar[str] = "Encrypts quantised updates so that sums are exact, many entries to a number (Paillier)"
    paper: ClassVar[Paper | None] = Paper(
        title="Public-Key Cryptosystems Based on Composite Degree Residuosity Classes",
        authors="Paillier",
        venue="EUROCRYPT 1999",
        where="section 4 (scheme 1) and section 7 (decryption by Chinese remainders)",
    )
    cost: ClassVar[str] = "about 0.1 ms per entry and client at 2048 bits, 0.2 ms at 3072; less than twice the bytes"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="single updates and their weights",
        against="the server, and whoever listens to its channels",
        assuming="the server does not collude with a holder of the key. The sum is not protected from the holders, "
        "and poisoned updates cannot be told from honest ones",
    )

    key_bits: Annotated[
        Literal[2048, 3072], Field(description="of the modulus: 2048 for 112 bits of security, 3072 for 128")
    ] = 2048
    most_parameters: Annotated[
        int, Field(ge=1, description="largest model that is encrypted; a larger one is refused with its seconds")
    ] = 20_000

    @property
    def encryptor(self) -> Callable[[bytes], Encryptor]:
        """See `IntegerSums.encryptor`."""
        return paillier_encryptor

    def places(self, size: int, rows: int) -> Places:
        """How an update of this size is laid out if a sum has so many rows."""
        return Places(size, self.bits, rows, self.key_bits)

    def seconds(self, setting: Setting) -> float:
        """Estimate of what all clients together encrypt in the whole training, on one core."""
        ciphertexts = len(self.places(setting.layout.size, self.rows(setting)).starts) - 1
        return ciphertexts * SECONDS[self.key_bits] * setting.cohort * setting.rounds

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """A model that is too large, and sums that do not fit."""
        size, rows, found = setting.layout.size, self.rows(setting), []
        if size > self.most_parameters:
            found.append(
                (
                    f"encrypting {size:,} parameters of {setting.cohort:g} clients in {setting.rounds} rounds takes "
                    f"about {self.seconds(setting):,.0f} s of one core (`most_parameters` is {self.most_parameters:,})",
                    f"use `bfv`, which is some 500 times as fast, or set `most_parameters: {size}`",
                )
            )
        found.extend(self.weight_problems(setting))
        if rows >= 2**22 or rows * (self.largest_weight or 1) >= 2**42:
            found.append((f"the count and the weights of {rows} rows do not fit", "lower `capacity`"))
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Key custody, security level, exactness, bytes and seconds."""
        places = self.places(setting.layout.size, self.rows(setting))
        return {
            **super().claims(setting),
            "security_bits": SECURITY_BITS[self.key_bits],
            "entries_per_ciphertext": float((self.key_bits - 1) // places.width),
            "upload_bytes": float((len(places.starts) - 1) * self.key_bits // 4),
            "estimated_seconds": self.seconds(setting),
        }

    def keys(self) -> PaillierKeys:
        """See `IntegerSums.keys`."""
        return PaillierKeys.make(self.key_bits)

    def public_side(self, public: bytes, size: int, rows: int, dtype: torch.dtype) -> PaillierScheme:
        """See `IntegerSums.public_side`."""
        return PaillierScheme(public, self.places(size, rows), dtype)

    def totals(self, keys: Any, scheme: Any, row: bytes) -> Integers:
        """See `IntegerSums.totals`."""
        opened: Integers = scheme.totals(keys, row)
        return opened

    def sealed_by(self, scheme: object) -> bool:
        """See `IntegerSums.sealed_by`."""
        return isinstance(scheme, PaillierScheme)
