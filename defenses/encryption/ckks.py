"""Homomorphic encryption of updates: the server adds ciphertexts and reads none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field

from fedsec.errors import ConfigurationError, Problem
from fedsec.protocol.payload import Kind, Payload, Plain, Sealed
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..expect import plain
from ..room import rows_expected
from .custody import KeyHolder, custody_claims, holders_of_key, refuse_threshold
from .fixed_point import Row, mean_of_sum, to_grid, weighted_rows
from .scheme import SCALE_BITS, Keys, PublicScheme, error_std, largest_sum, most_rows


@dataclass(frozen=True, kw_only=True)
class CKKS(Defense):
    """Additively homomorphic averaging with CKKS.

    A row encrypts ``[w * update, w]``; the server forms sums, the holder of the key divides. Before encryption
    the row is rounded to a grid, and after decryption the sum is rounded to the same grid. The error of the
    scheme is far below half a grid step, so the opened sum is *exactly* the sum of the rounded rows: results
    are reproducible although encryption cannot be seeded, and what is opened says nothing about the secret
    key through its error term, which is what the attack of Li and Micciancio (Eurocrypt 2021) on approximate
    schemes needs. Everything is bounded beforehand; a value that could wrap around raises instead.

    The simulation keeps the key pair in the process; parties are told apart by what they are given: clients
    encrypt and the server adds with a context that never held the secret key.
    """

    name: ClassVar[str] = "ckks"
    summary: ClassVar[str] = "Encrypts updates so that the server can only add them up (CKKS)"
    family: ClassVar[str] = "homomorphic encryption"
    paper: ClassVar[Paper | None] = Paper(
        title="Homomorphic Encryption for Arithmetic of Approximate Numbers",
        authors="Cheon, Kim, Kim, Song",
        venue="ASIACRYPT 2017",
        where="section 3: encoding, encryption, addition",
    )
    cost: ClassVar[str] = (
        "milliseconds per upload; about eight times the bytes, and no less than one ciphertext (132 kB; 62 kB at 4096)"
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="single updates and their weights",
        against="the server, and whoever listens to its channels",
        assuming="the server does not collude with a holder of the key. The sum is not protected from the holders, "
        "and poisoned updates cannot be told from honest ones",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN})
    emits: ClassVar[Kind | None] = Kind.SEALED

    poly_modulus: Annotated[
        Literal[4096, 8192],
        Field(description="degree of the ring; 8192 holds sums up to 2^18, 4096 up to 2^12"),
    ] = 8192
    resolution_bits: Annotated[
        int, Field(ge=8, le=22, description="entries are rounded to multiples of 2^-resolution_bits")
    ] = 20
    key_holder: KeyHolder = "clients"
    weight_unit: Annotated[
        float, Field(gt=0, description="weights are divided by it before encryption (examples; powers of 2 are exact)")
    ] = 1.0
    capacity: Annotated[
        int | None,
        Field(
            ge=1, description="rows that one sum may have; by default twice the cohort, as a power of 2, at least 16"
        ),
    ] = None

    def __post_init__(self) -> None:
        refuse_threshold(self.name, self.key_holder)

    @property
    def enforcement(self) -> EnforcedBy:
        """What is not a ciphertext is not accepted."""
        return EnforcedBy.FORMAT

    @property
    def holders(self) -> frozenset[str]:  # type: ignore[override]  # a parameter decides it
        """Who reads the aggregate."""
        return holders_of_key(self.key_holder)

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """More rows in a sum than the precision allows."""
        rows, most = self._capacity(setting.cohort), most_rows(self.poly_modulus, self.resolution_bits)
        if rows <= most:
            return ()
        fitting = next(
            (bits for bits in range(self.resolution_bits, 7, -1) if most_rows(self.poly_modulus, bits) >= rows), 8
        )
        return [
            (
                f"the error of a sum of {rows} ciphertexts could reach half a step of 2^-{self.resolution_bits} "
                f"(at most {most} rows keep clear of it)",
                f"set `resolution_bits: {fitting}`",
            )
        ]

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Key custody, security level and exactness."""
        return {
            **custody_claims(self.key_holder),
            "security_bits": 128.0,
            "resolution": 2.0**-self.resolution_bits,
            "ciphertext_error_std": error_std(self.poly_modulus),
        }

    def seal(self, update: Payload, context: RoundContext) -> Sealed:
        """Round, check the range and encrypt each row with the public key.

        Raises:
            TypeError: the update is not in clear.
            ConfigurationError: an entry is too large for the range that each row has.
        """
        readable = plain(update, self.name)
        capacity = self._capacity(context.cohort)
        rows = weighted_rows(readable, unit=self.weight_unit, bits=self.resolution_bits)
        self._check_range(rows, capacity)
        scheme = self._scheme(context, rows.shape[1], capacity, readable.values.dtype)
        ciphertexts = tuple(scheme.encrypt(row) for row in rows)
        return Sealed(ciphertexts, scheme, self.holders)

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        """Decrypt the sum, round it to the grid and divide by the total weight, in float64.

        Returns:
            One row: the weighted mean in the precision of the clients' updates, and the total weight. A round
            in which nobody uploaded has nothing to open and passes.

        Raises:
            TypeError: the aggregate is not sealed.
            PermissionError: the opener does not hold the key under which it was encrypted.
        """
        if isinstance(aggregate, Plain) and float(aggregate.weights.sum()) == 0.0:
            return aggregate
        if not isinstance(aggregate, Sealed) or not isinstance(aggregate.scheme, PublicScheme):
            raise TypeError(f"ckks opens what ckks sealed and was given a {aggregate.kind} payload")
        if len(aggregate) != 1:
            raise ValueError(f"ckks opens one sum, and was given {len(aggregate)} rows")
        keys = context.vault.get(self._key_name)
        if not isinstance(keys, Keys) or keys.public != aggregate.scheme.public:
            raise PermissionError(f"no secret key for {aggregate.scheme.key_id}: only {self.key_holder} hold it")
        total = to_grid(keys.decrypt(aggregate.ciphertexts[0])[: aggregate.scheme.length], self.resolution_bits)
        return mean_of_sum(total, unit=self.weight_unit, dtype=aggregate.scheme.dtype)

    def _capacity(self, cohort: float) -> int:
        return rows_expected(cohort, self.capacity)

    @property
    def _key_name(self) -> str:
        return f"ckks-keys-{self.poly_modulus}"

    def _scheme(self, context: RoundContext, length: int, capacity: int, dtype: torch.dtype) -> PublicScheme:
        """The public side, with fresh keys if the vault has none; its context is parsed once per process."""
        keys: Keys = context.vault.get(self._key_name) or Keys.make(self.poly_modulus)
        context.vault[self._key_name] = keys
        scheme = PublicScheme(keys.public, length, self.poly_modulus, capacity, dtype)
        known = context.vault.get(f"{self._key_name}-scheme")
        if known == scheme:
            return cast("PublicScheme", known)
        context.vault[f"{self._key_name}-scheme"] = scheme
        return scheme

    def _check_range(self, rows: Row, capacity: int) -> None:
        limit = largest_sum(self.poly_modulus) / capacity
        largest = float(np.abs(rows).max(initial=0.0))
        if largest < limit:
            return
        raise ConfigurationError(
            [
                Problem(
                    path="defenses.ckks",
                    found=f"an entry of {largest:.4g}",
                    expected=f"entries of [w * update, w] must stay below {limit:.4g}, so that a sum of {capacity} "
                    f"rows cannot wrap around (scale 2^{SCALE_BITS})",
                    hint="Divide the weights (`weight_unit`, about the examples of a client), clip updates first, "
                    "or use `poly_modulus: 8192`",
                )
            ]
        )
