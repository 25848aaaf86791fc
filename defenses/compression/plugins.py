"""Compression of uploads: the largest coordinates only, or signs only. It saves bytes; it is no privacy mechanism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.payload import Code
from fedsec.protocol.stage import Guarantee, RoundContext
from fedsec.threat import Paper

from .codes import SignCode, SparseCode
from .compression import CompressionWithMemory, kept


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
class TopK(CompressionWithMemory):
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

    @property
    def unbiased(self) -> bool:
        """Only if nothing is left out."""
        return self.share == 1.0

    def compress(self, updates: Tensor, context: RoundContext) -> tuple[Tensor, Code]:
        """See `top_k`; at least one coordinate. The code is `SparseCode`."""
        size, trainable = context.layout.size, updates.shape[1]
        return top_k(updates, self.kept(trainable)), SparseCode(size, trainable, updates.dtype)

    def kept(self, size: int) -> int:
        """See `kept`."""
        return kept(self.share, size)


@dataclass(frozen=True, kw_only=True)
class Sign(CompressionWithMemory):
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

    def compress(self, updates: Tensor, context: RoundContext) -> tuple[Tensor, Code]:
        """See `scaled_signs`; the code is `SignCode`."""
        return scaled_signs(updates), SignCode(context.layout.size, updates.shape[1], updates.dtype)
