"""Payload kinds: `Plain` (whoever receives it reads it), `Sealed` and `Masked` (only sums can be formed).

A payload holds the rows of one or several senders, because a round is one matrix. Rows of `Sealed` and
`Masked` payloads are bytes: what a receiver without the key holds is exactly what crossed the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor


class Kind(StrEnum):
    """How readable a payload is."""

    PLAIN = "plain"
    SEALED = "sealed"
    MASKED = "masked"


def role(party: str) -> str:
    """The role of a party: ``client:3`` has the role ``client``."""
    return party.partition(":")[0]


def is_one_of(party: str, names: frozenset[str]) -> bool:
    """Whether a party is named, or its role is (``client`` names every client)."""
    return party in names or role(party) in names


class Code(Protocol):
    """How a sender writes one row in fewer bytes than its numbers take; the receiver reads the same row out of them."""

    def encode(self, row: Tensor) -> bytes:
        """The bytes of a row ``(d,)`` that the code can hold without loss."""

    def decode(self, encoded: bytes) -> Tensor:
        """The row ``(d,)`` that was encoded."""

    def nbytes(self, row: Tensor) -> int:
        """``len(encode(row))``, without encoding."""


@dataclass(frozen=True)
class Plain:
    """Updates in clear.

    Attributes:
        values: ``(rows, d)`` updates, local minus global model, in the federation's precision.
        weights: ``(rows,)`` weight in the mean: the number of examples, or 1.
        code: how the rows are written on the wire; ``None``: number by number. A stage that makes other values of them
            makes a payload without it.
    """

    values: Tensor
    weights: Tensor
    code: Code | None = None

    kind = Kind.PLAIN

    def __len__(self) -> int:
        return self.values.shape[0]

    def opens(self, coalition: frozenset[str]) -> bool:
        """Anyone who holds a plain payload reads it."""
        return True

    def serialise(self, row: int) -> memoryview:
        """The bytes of one row on the wire: little-endian values, or their code, then the weight."""
        if self.code is not None:
            weight = self.weights[row : row + 1].to(self.values).detach().cpu().numpy().tobytes()
            return memoryview(self.code.encode(self.values[row]) + weight)
        joined = torch.cat([self.values[row], self.weights[row : row + 1].to(self.values)])
        return joined.detach().cpu().contiguous().numpy().data.cast("B")

    def nbytes(self, row: int) -> int:
        """Size of one row on the wire in bytes."""
        if self.code is not None:
            return self.code.nbytes(self.values[row]) + self.values.element_size()
        return (self.values.shape[1] + 1) * self.values.element_size()

    def rows(self, which: Sequence[int] | Tensor) -> Plain:
        """The payload of some of the senders."""
        index = torch.as_tensor(which, dtype=torch.long, device=self.values.device)
        return Plain(self.values[index], self.weights[index], self.code)


class AdditiveScheme(Protocol):
    """The public side of a scheme in which only sums can be formed; holds no secret."""

    def start(self, row: bytes) -> Any:
        """An accumulator that holds one row."""

    def add(self, accumulator: Any, row: bytes) -> Any:
        """The accumulator with one more row added."""

    def finish(self, accumulator: Any) -> bytes:
        """The sum as bytes."""


@dataclass(frozen=True)
class OpenPart:
    """What of sealed rows travels in clear beside them.

    Attributes:
        plain: ``(rows, d)``, zero at sealed coordinates, and the weights.
        where: ``(d,)`` bool, the coordinates in clear: public, and the same for everyone.
    """

    plain: Plain
    where: Tensor

    @property
    def share(self) -> float:
        """Share of the coordinates that are in clear."""
        return float(self.where.double().mean()) if len(self.where) else 0.0


@dataclass(frozen=True)
class Sealed:
    """Ciphertexts of which only sums can be formed; only the holders read the result.

    The weight is sealed too: a row encrypts ``[w * update, w]``, so that the server learns neither.

    Attributes:
        ciphertexts: one per row.
        scheme: public operations.
        holders: parties or roles that hold the key.
        terms: how many rows were summed into each ciphertext.
        open_part: what is left in clear, if anything is; weights are then in clear too.
    """

    ciphertexts: tuple[bytes, ...]
    scheme: AdditiveScheme
    holders: frozenset[str]
    terms: int = 1
    open_part: OpenPart | None = None

    kind = Kind.SEALED

    def __len__(self) -> int:
        return len(self.ciphertexts)

    def opens(self, coalition: frozenset[str]) -> bool:
        """Whether a member of the coalition holds the key."""
        return any(is_one_of(party, self.holders) for party in coalition)

    def serialise(self, row: int) -> memoryview:
        """The bytes of one row on the wire."""
        if self.open_part is None:
            return memoryview(self.ciphertexts[row])
        return memoryview(self.ciphertexts[row] + bytes(self.open_part.plain.serialise(row)))

    def nbytes(self, row: int) -> int:
        """Size of one row on the wire in bytes."""
        beside = 0 if self.open_part is None else self.open_part.plain.nbytes(row)
        return len(self.ciphertexts[row]) + beside

    def rows(self, which: Sequence[int] | Tensor) -> Sealed:
        """The payload of some of the senders."""
        picked = tuple(self.ciphertexts[int(index)] for index in which)
        part = self.open_part
        beside = None if part is None else OpenPart(part.plain.rows(which), part.where)
        return Sealed(picked, self.scheme, self.holders, self.terms, beside)


@dataclass(frozen=True)
class Masked:
    """Rows whose masks cancel in the sum over the whole cohort: nobody reads one row, the readers the sum.

    Attributes:
        masked: one per row.
        scheme: public operations.
        group: the parties whose masks cancel, or who hold shares of a row.
        threshold: so many of those who hold shares of a row open it together; ``None``: all of the group but one.
        sharers: per row who holds shares of it, where that is not the whole group.
        readers: parties or roles that read the sum.
        is_sum: whether the one row is such a sum.
    """

    masked: tuple[bytes, ...]
    scheme: AdditiveScheme
    group: frozenset[str]
    threshold: int | None = None
    sharers: tuple[frozenset[str], ...] = ()
    readers: frozenset[str] = frozenset({"server"})
    is_sum: bool = False

    kind = Kind.MASKED

    def __len__(self) -> int:
        return len(self.masked)

    def opens(self, coalition: frozenset[str]) -> bool:
        """Whether the coalition opens every row: as a reader of the sum, by shares, or by taking away all others."""
        if self.is_sum:
            return any(is_one_of(party, self.readers) for party in coalition)
        if self.threshold is None:
            return len(self.group - coalition) <= 1
        return all(len(sharers & coalition) >= self.threshold for sharers in self.sharers or (self.group,))

    def serialise(self, row: int) -> memoryview:
        """The bytes of one row on the wire."""
        return memoryview(self.masked[row])

    def nbytes(self, row: int) -> int:
        """Size of one row on the wire in bytes."""
        return len(self.masked[row])

    def rows(self, which: Sequence[int] | Tensor) -> Masked:
        """The payload of some of the senders."""
        index = [int(row) for row in which]
        sharers = tuple(self.sharers[row] for row in index) if self.sharers else ()
        return replace(self, masked=tuple(self.masked[row] for row in index), sharers=sharers)

    def summed(self, total: bytes) -> Masked:
        """The payload of the sum of rows."""
        return replace(self, masked=(total,), sharers=(), is_sum=True)


Payload = Plain | Sealed | Masked


def in_clear(payload: Payload) -> Plain | None:
    """What anybody who holds a payload reads of it: all, the part that was left open, or nothing."""
    if isinstance(payload, Plain):
        return payload
    return payload.open_part.plain if isinstance(payload, Sealed) and payload.open_part is not None else None
