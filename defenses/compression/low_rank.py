"""Low-rank approximation of each weight matrix, sent as two factors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Code
from fedsec.protocol.stage import Guarantee, RoundContext
from fedsec.threat import Paper

from .compression import CompressionWithMemory
from .known_positions import NUMBER


def matrix_shape(slot: Slot, rank: int) -> tuple[int, int] | None:
    """A weight as a matrix (outputs, everything else), or ``None`` where two factors would be no smaller."""
    if len(slot.shape) < 2:
        return None
    rows, columns = slot.shape[0], (slot.stop - slot.start) // slot.shape[0]
    return (rows, columns) if rank * (rows + columns) < rows * columns else None


def factors(matrix: Tensor, rank: int, *, iterations: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """``P (m, r)`` and ``Q (k, r)`` with ``P Q^T`` close to the matrix: power iteration from a random start.

    ``iterations`` times: ``P`` is an orthonormal basis of ``M Q``, then ``Q = M^T P``. One iteration is that of
    PowerSGD; with several ``P Q^T`` approaches the best approximation of this rank.

    Args:
        matrix: ``(m, k)``.
        rank: r, at most ``min(m, k)``.
        iterations: at least 1.
        source: draws the start.
    """
    wide = matrix.double()
    q = torch.randn(wide.shape[1], rank, generator=source, dtype=torch.float64).to(wide.device)
    p = wide.new_zeros(wide.shape[0], rank)
    for _ in range(iterations):
        p = torch.linalg.qr(wide @ q).Q
        q = wide.mT @ p
    return p.to(matrix.dtype), q.to(matrix.dtype)


def product(p: Tensor, q: Tensor) -> Tensor:
    """``P Q^T`` as both ends compute it: in float64, on the CPU, rounded once."""
    return (p.double().cpu() @ q.double().cpu().mT).to(p.dtype)


@dataclass(frozen=True, eq=False)
class LowRankCode:
    """Two factors for each matrix, everything else number by number, in the order of the layout.

    Factors cannot be read off a rounded product, so the code keeps those of the rows that it was made for, by a
    digest of the row; a receiver needs the layout and the rank alone.

    Attributes:
        layout: of the model.
        rank: of the factors.
        dtype: of the values.
        held: bytes of the parameters of the rows, by digest; the sender's.
    """

    layout: Layout
    rank: int
    dtype: torch.dtype
    held: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)

    def encode(self, row: Tensor) -> bytes:
        """See `Code`.

        Raises:
            KeyError: the code was not made for this row.
        """
        trainable = self.layout.trainable
        return self.held[digest(row[:trainable])] + as_bytes(row[trainable:])

    def decode(self, encoded: bytes) -> Tensor:
        """See `Code`."""
        numbers = torch.from_numpy(np.frombuffer(encoded, NUMBER[self.dtype]).copy()).to(self.dtype)
        row = torch.zeros(self.layout.size, dtype=self.dtype)
        place = 0
        for slot in self.layout.slots:
            shape = matrix_shape(slot, self.rank) if slot.trainable else None
            if shape is None:
                count = slot.stop - slot.start
                row[slot.start : slot.stop] = numbers[place : place + count]
            else:
                split, count = self.rank * shape[0], self.rank * (shape[0] + shape[1])
                p = numbers[place : place + split].view(shape[0], self.rank)
                q = numbers[place + split : place + count].view(shape[1], self.rank)
                row[slot.start : slot.stop] = product(p, q).flatten()
            place += count
        return row

    def nbytes(self, row: Tensor) -> int:
        """See `Code`."""
        count = 0
        for slot in self.layout.slots:
            shape = matrix_shape(slot, self.rank) if slot.trainable else None
            count += slot.stop - slot.start if shape is None else self.rank * sum(shape)
        return count * NUMBER[self.dtype].itemsize


def digest(row: Tensor) -> bytes:
    """16 bytes that stand for a row."""
    return hashlib.blake2b(as_bytes(row), digest_size=16).digest()


def as_bytes(values: Tensor) -> bytes:
    """Little-endian numbers, one after the other."""
    return values.detach().cpu().numpy().astype(NUMBER[values.dtype]).tobytes()


@dataclass(frozen=True, kw_only=True)
class LowRank(CompressionWithMemory):
    """Send each weight matrix as two factors of rank ``rank``, where that is smaller; the rest in full.

    The factors are those of PowerSGD's power iteration, run by each client on its own update from a fresh random
    start. PowerSGD itself averages between its two half-steps, which one upload per round cannot; with ``iterations``
    above 1 the client's approximation comes near the best one of that rank instead. Convolutions are matrices of
    (output channels, everything else). It is biased: use error feedback.
    """

    name: ClassVar[str] = "low-rank"
    summary: ClassVar[str] = "Sends each weight matrix of an update as two thin factors"
    paper: ClassVar[Paper | None] = Paper(
        title="PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization",
        authors="Vogels, Karimireddy, Jaggi",
        venue="NeurIPS 2019",
        where="algorithms 1 and 2 with one worker, without the warm start",
    )
    cost: ClassVar[str] = "a few thin matrix products per weight; without error feedback, accuracy at small ranks"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="nothing by itself: it saves bytes",
        against="nobody who reads the update: the update of one example has rank 1 in every linear layer, and is sent "
        "almost exactly",
        assuming="clients compress",
    )

    rank: Annotated[int, Field(ge=1, description="of each weight matrix's update")] = 4
    iterations: Annotated[int, Field(ge=1, le=10, description="power iterations; 1 is PowerSGD's")] = 2

    def compress(self, updates: Tensor, context: RoundContext) -> tuple[Tensor, Code]:
        """Products of the factors; the code is `LowRankCode`."""
        trainable = updates.shape[1]
        layout = Layout(context.layout.parameters)
        empty = LowRankCode(layout, self.rank, updates.dtype)
        made = [self._encoded(row, client, context) for row, client in zip(updates, context.clients, strict=True)]
        decoded = [empty.decode(encoded) for encoded in made]
        sent = torch.stack(decoded).to(updates.device) if decoded else updates.new_zeros(0, trainable)
        held = {digest(row): encoded for row, encoded in zip(decoded, made, strict=True)}
        return sent, LowRankCode(context.layout, self.rank, updates.dtype, held)

    def _encoded(self, row: Tensor, client: int, context: RoundContext) -> bytes:
        source = context.generator("start", client)
        parts: list[Tensor] = []
        for slot in context.layout.parameters:
            tensor, shape = row[slot.start : slot.stop], matrix_shape(slot, self.rank)
            if shape is None:
                parts.append(tensor)
            else:
                found = factors(tensor.view(shape), self.rank, iterations=self.iterations, source=source)
                parts.extend(factor.flatten() for factor in found)
        return as_bytes(torch.cat(parts))


__all__ = ["LowRank", "LowRankCode", "factors", "matrix_shape", "product"]
