"""What encryption of integers has in common, whatever the scheme: quantise, encrypt, add, open, divide."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import torch
from pydantic import Field

from fedsec.errors import ConfigurationError, Problem
from fedsec.protocol.payload import Kind, Payload, Plain, Sealed
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting

from ..expect import plain
from ..room import rows_expected
from .custody import KeyHolder, custody_claims, holders_of_key, refuse_threshold
from .encrypting_processes import Processes, start
from .encryptors import Encryptor
from .quantised import Grid, Integers, mean_of, quantise, saturated, uniforms


class IntegerKeys(Protocol):
    """A key pair of a scheme over integers."""

    @property
    def public(self) -> bytes:
        """What everybody gets."""


class IntegerScheme(Protocol):
    """The public side of a scheme that encrypts a row ``[1, w, codes]`` chunk by chunk."""

    @property
    def key_id(self) -> str:
        """Says which secret key opens a row, and nothing more."""

    def chunks(self, row: Integers) -> Iterator[bytes]:
        """What each ciphertext of a row encrypts."""

    def encrypt_chunk(self, chunk: bytes) -> bytes:
        """One ciphertext."""

    def join(self, parts: list[bytes]) -> bytes:
        """The ciphertexts of a row as one row."""

    def start(self, row: bytes) -> Any:
        """See `AdditiveScheme`."""

    def add(self, accumulator: Any, row: bytes) -> Any:
        """See `AdditiveScheme`."""

    def finish(self, accumulator: Any) -> bytes:
        """See `AdditiveScheme`."""


@dataclass(frozen=True, kw_only=True)
class IntegerSums(Defense):
    """A row encrypts ``[1, w, codes of w x]``; the opener reads how many rows, the total weight and the sum of codes.

    Quantisation rounds at random with each client's own generator, so how a cohort is cut into chunks changes
    nothing. The opened sum is the sum of the codes to the bit.
    """

    family: ClassVar[str] = "homomorphic encryption"
    guarantee: ClassVar[Guarantee]
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN})
    emits: ClassVar[Kind | None] = Kind.SEALED

    bound: Annotated[
        float,
        Field(gt=0, description="entries of an update are cut off at this magnitude, and those cut off are counted"),
    ] = 1.0
    bits: Annotated[int, Field(ge=2, le=24, description="of an encrypted entry")] = 14
    largest_weight: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_048_576,
            description="most examples of a client: weights are encrypted as shares of it, and a client with more "
            "is an error; null: every client counts once",
        ),
    ] = None
    key_holder: KeyHolder = "clients"
    capacity: Annotated[
        int | None,
        Field(
            ge=1,
            description="rows that one sum may have; by default the cohort as a power of 2, at least 16, and twice "
            "that under Poisson sampling",
        ),
    ] = None
    processes: Annotated[
        int,
        Field(ge=0, le=256, description="processes that encrypt; 0: this one. They change seconds and nothing else"),
    ] = 0

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

    @property
    def unit_weights(self) -> bool:  # type: ignore[override]  # a parameter decides it
        """Every client counts once unless weights have a bound."""
        return self.largest_weight is None

    @property
    def grid(self) -> Grid:
        """Where entries are rounded to."""
        return Grid(self.bound, self.bits)

    @abstractmethod
    def keys(self) -> IntegerKeys:
        """A fresh key pair."""

    @abstractmethod
    def public_side(self, public: bytes, size: int, rows: int, dtype: torch.dtype) -> IntegerScheme:
        """The public side for updates ``(size,)``."""

    @abstractmethod
    def totals(self, keys: Any, scheme: Any, row: bytes) -> Integers:
        """What the key holder reads of a row: ``[rows, weight, sums of codes]``."""

    @property
    @abstractmethod
    def encryptor(self) -> Callable[[bytes], Encryptor]:
        """A module-level function that makes of a public key what encrypts chunks, in a process of its own."""

    def rows(self, where: Setting | RoundContext) -> int:
        """Rows that one sum must have room for."""
        return rows_expected(where.cohort, self.capacity, slack=2.0 if where.sampling == "poisson" else 1.0)

    def weight_problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """A client with more examples than weights are encrypted for."""
        if self.largest_weight is None or setting.largest_weight <= self.largest_weight:
            return ()
        most = f"{setting.largest_weight:g}"
        return [
            (f"a client weighs {most}, and `largest_weight` is {self.largest_weight}", f"set `largest_weight: {most}`")
        ]

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Key custody and what rounding costs."""
        return {
            **custody_claims(self.key_holder),
            "quantisation_step": self.grid.step,
            "largest_sum_rows": float(self.rows(setting)),
            "exactness": "the opened sum is the sum of the quantised updates to the bit",
        }

    def seal(self, update: Payload, context: RoundContext) -> Sealed:
        """Cut off, weigh, round at random and encrypt each row with the public key.

        Raises:
            TypeError: the update is not in clear.
            ConfigurationError: an entry is not finite, or a weight is no number of examples within the bound.
        """
        readable = plain(update, self.name)
        values = readable.values.detach().to("cpu", torch.float64).numpy()
        if not np.isfinite(values).all():
            raise _refusal(self.name, "an entry that is not finite", "finite entries", "Check the training")
        weights = self._weights(readable)
        scheme = self._scheme(context, values.shape[1], readable.values.dtype)

        def chunks() -> Iterator[bytes]:
            for client, row, weight in zip(context.clients, values, weights, strict=True):
                drawn = uniforms(len(row), context.generator("round", client))
                codes = quantise(row, self.grid, drawn, scale=weight / self._unit)
                yield from scheme.chunks(np.concatenate([np.array([1, weight], dtype=np.int64), codes]))

        pool = self._processes(context)
        parts = list(map(scheme.encrypt_chunk, chunks()) if pool is None else pool.map(chunks()))
        each = len(parts) // max(1, len(values))
        rows = tuple(scheme.join(parts[at : at + each]) for at in range(0, len(parts), each or 1))
        cut = sum(saturated(row, self.grid) for row in values)
        context.report["saturated"] = float(cut)
        context.report["saturated_share"] = cut / max(1, values.size)
        return Sealed(rows, scheme, self.holders)

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        """Decrypt the sum and divide by the total weight, in float64.

        Returns:
            One row: the weighted mean in the precision of the clients' updates, and the total weight. A round
            in which nobody uploaded has nothing to open and passes.

        Raises:
            TypeError: the aggregate was not sealed by this defense.
            PermissionError: the opener does not hold the key under which it was encrypted.
        """
        if isinstance(aggregate, Plain) and float(aggregate.weights.sum()) == 0.0:
            return aggregate
        if not isinstance(aggregate, Sealed) or not self.sealed_by(aggregate.scheme):
            raise TypeError(f"{self.name} opens what {self.name} sealed and was given a {aggregate.kind} payload")
        if len(aggregate) != 1:
            raise ValueError(f"{self.name} opens one sum, and was given {len(aggregate)} rows")
        scheme: Any = aggregate.scheme
        keys = context.vault.get(self._key_name)
        if keys is None or keys.public != scheme.public:
            raise PermissionError(f"no secret key for {scheme.key_id}: only {self.key_holder} hold it")
        total = self.totals(keys, scheme, aggregate.ciphertexts[0])
        mean, weight = mean_of(total, self.grid, largest_weight=self._unit)
        return Plain(torch.from_numpy(mean)[None].to(scheme.dtype), torch.tensor([weight], dtype=torch.float64))

    @abstractmethod
    def sealed_by(self, scheme: object) -> bool:
        """Whether a ciphertext is of this scheme."""

    @property
    def _unit(self) -> int:
        return self.largest_weight or 1

    @property
    def _key_name(self) -> str:
        return f"{self.name}-keys"

    def _weights(self, update: Plain) -> Sequence[int]:
        if self.largest_weight is None:
            return [1] * len(update)
        given = update.weights.detach().cpu().double().tolist()
        for weight in given:
            if weight != int(weight) or not 0 < weight <= self.largest_weight:
                raise _refusal(
                    self.name,
                    f"a weight of {weight:g}",
                    f"whole numbers of examples up to {self.largest_weight}",
                    "Raise `largest_weight` to the most examples that a client has",
                )
        return [int(weight) for weight in given]

    def _scheme(self, context: RoundContext, size: int, dtype: torch.dtype) -> IntegerScheme:
        """The public side, with fresh keys if the vault has none; its key is parsed once per process."""
        keys = context.vault.get(self._key_name) or self.keys()
        context.vault[self._key_name] = keys
        scheme = self.public_side(keys.public, size, self.rows(context), dtype)
        known: IntegerScheme | None = context.vault.get(f"{self.name}-scheme")
        if known == scheme and known is not None:
            return known
        context.vault[f"{self.name}-scheme"] = scheme
        return scheme

    def _processes(self, context: RoundContext) -> Processes | None:
        if not self.processes:
            return None
        public = context.vault[self._key_name].public
        pool: Processes | None = context.vault.get(f"{self.name}-processes")
        if pool is None or pool.public != public:
            pool = context.vault[f"{self.name}-processes"] = start(self.encryptor, public, count=self.processes)
        return pool


def _refusal(name: str, found: str, expected: str, hint: str) -> ConfigurationError:
    return ConfigurationError([Problem(path=f"defenses.{name}", found=found, expected=expected, hint=hint)])
