"""Compression of uploads: the largest coordinates only, or signs only. It saves bytes; it is no privacy mechanism."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.payload import Code, Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..expect import plain
from .codes import SignCode, SparseCode

ErrorFeedback = Annotated[
    bool,
    Field(
        description="whether a client keeps what compression left out and adds it to its next update, so that nothing "
        "is lost over the rounds (one vector per client is kept)"
    ),
]


def top_k(updates: Tensor, k: int) -> Tensor:
    """Keep the ``k`` coordinates of each row with the largest magnitude; the others become 0.

    Args:
        updates: ``(n, d)``.
        k: in [0, d].

    Returns:
        ``(n, d)``; of coordinates of one magnitude any may stay, and exactly ``k`` do.
    """
    kept = updates.abs().topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(updates).scatter(1, kept, updates.gather(1, kept))


def scaled_signs(updates: Tensor) -> Tensor:
    """``mean(|u|) sign(u)`` of each row (Karimireddy et al. 2019, eq. of the scaled sign operator); 0 counts as plus.

    Args:
        updates: ``(n, d)`` with ``d > 0``.
    """
    scale = updates.abs().mean(dim=1, keepdim=True, dtype=torch.float64).to(updates.dtype)
    return torch.where(updates >= 0, scale, -scale)


@dataclass(frozen=True, kw_only=True)
class _Compression(Defense):
    """What both have in common: error feedback, float buffers in full, bytes on the wire.

    Batch-norm statistics travel in the update as float buffers and are sent as they are: a variance that moves by
    a common magnitude may become negative. A stage behind this one that changes values sends them number by number
    again, so compression saves bytes only as the last stage in clear.
    """

    family: ClassVar[str] = "compression"
    guarantee: ClassVar[Guarantee]

    error_feedback: ErrorFeedback = False

    @property
    def enforcement(self) -> EnforcedBy:
        """The client: whoever sends a full vector is served too."""
        return EnforcedBy.CLIENT

    @abstractmethod
    def compress(self, updates: Tensor) -> Tensor:
        """``(n, trainable)`` parameters to what the code can hold."""

    @abstractmethod
    def code(self, size: int, trainable: int, dtype: torch.dtype) -> Code:
        """The code of a row."""

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """A model without parameters."""
        return () if setting.layout.trainable else [("the model has no parameters", "use a model that is trained")]

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """Compress every row; with error feedback, what was left out before is added first and kept after."""
        received = plain(update, self.name)
        trainable = context.layout.trainable
        wanted = received.values[:, :trainable]
        if self.error_feedback:
            wanted = wanted + self._remembered(wanted, context)
        sent = self.compress(wanted)
        if self.error_feedback:
            left = wanted - sent
            context.state.update({self._key(c): left[i].clone() for i, c in enumerate(context.clients)})
        values = torch.cat([sent, received.values[:, trainable:]], dim=1)
        coded = Plain(values, received.weights, self.code(values.shape[1], trainable, values.dtype))
        if len(coded):
            dense = Plain(values, received.weights).nbytes(0)
            context.report["size_share"] = sum(coded.nbytes(row) for row in range(len(coded))) / (dense * len(coded))
            context.report["error"] = _relative_error(wanted, sent)
        return coded

    def _remembered(self, like: Tensor, context: RoundContext) -> Tensor:
        none = like.new_zeros(like.shape[1])
        rows = [context.state.get(self._key(client), none).to(like) for client in context.clients]
        return torch.stack(rows) if rows else torch.zeros_like(like)

    @staticmethod
    def _key(client: int) -> str:
        return f"left out/{client}"


def _relative_error(wanted: Tensor, sent: Tensor) -> float:
    """Mean over rows of the norm of what is missing over the norm of the row; 0 for a row of zeros."""
    norms = torch.linalg.vector_norm(wanted, dim=1, dtype=torch.float64)
    missing = torch.linalg.vector_norm(wanted - sent, dim=1, dtype=torch.float64)
    return float((missing / norms.clamp_min(torch.finfo(torch.float64).tiny)).mean())


@dataclass(frozen=True, kw_only=True)
class TopK(_Compression):
    """Send the ``share`` of each update's coordinates with the largest magnitude, the others as 0.

    The server takes the plain mean of the sparse rows. The kept values are exact, and they are those that the data
    moved most: gradient inversion reads a single linear row as before, and a reader also learns which coordinates
    were the largest. What falls is the number of equations that an optimisation attack can match.
    """

    name: ClassVar[str] = "top-k"
    summary: ClassVar[str] = "Sends only the coordinates of an update with the largest magnitude"
    paper: ClassVar[Paper | None] = Paper(
        title="Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed Training",
        authors="Lin, Han, Mao, Wang, Dally",
        venue="ICLR 2018",
        where="section 3.1, gradient sparsification with local accumulation (over the whole vector, no momentum "
        "correction)",
    )
    cost: ClassVar[str] = "one selection per update; without error feedback, accuracy at small shares"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="nothing by itself: it saves bytes, and leaves attacks fewer coordinates to match",
        against="nobody who reads the update: the kept coordinates are exact and the most telling ones",
        assuming="clients compress; the positions travel in clear, and with error feedback the rest follows in "
        "later rounds",
    )

    share: Annotated[float, Field(gt=0, le=1, description="share of the coordinates that is sent")] = 0.1

    def compress(self, updates: Tensor) -> Tensor:
        """See `top_k`; at least one coordinate."""
        return top_k(updates, self.kept(updates.shape[1]))

    def kept(self, size: int) -> int:
        """Coordinates that are sent of ``size``: the share, rounded up."""
        # the tolerance keeps 0.1 * 30, which floating point makes 3.0000000000000004, at 3
        return min(size, max(1, math.ceil(self.share * size * (1 - 1e-12))))

    def code(self, size: int, trainable: int, dtype: torch.dtype) -> Code:
        """See `SparseCode`."""
        return SparseCode(size, trainable, dtype)


@dataclass(frozen=True, kw_only=True)
class Sign(_Compression):
    """Send one bit per coordinate, its sign, and one number, the mean magnitude of the update.

    The server takes the plain mean of the decoded rows, not a majority vote. Signs are what label inference reads, and
    an attack that matches directions can match the signs.
    """

    name: ClassVar[str] = "sign"
    summary: ClassVar[str] = "Sends only the sign of each coordinate and the mean magnitude of the update"
    paper: ClassVar[Paper | None] = Paper(
        title="Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
        authors="Karimireddy, Rebjock, Stich, Jaggi",
        venue="ICML 2019",
        where="section 4, the scaled sign and algorithm 1 (error feedback, per client)",
    )
    cost: ClassVar[str] = "one pass over each update; without error feedback, accuracy"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="nothing by itself: it saves bytes, and hides the magnitudes of single coordinates",
        against="nobody who reads the update: signs give labels away and leave the direction to match",
        assuming="clients compress; with error feedback the magnitudes follow in later rounds",
    )

    def compress(self, updates: Tensor) -> Tensor:
        """See `scaled_signs`."""
        return scaled_signs(updates)

    def code(self, size: int, trainable: int, dtype: torch.dtype) -> Code:
        """See `SignCode`."""
        return SignCode(size, trainable, dtype)
