"""Sparsification that does not look for the largest: random coordinates, and pruning by layer or by a public mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.flat import Layout
from fedsec.protocol.payload import Code
from fedsec.protocol.stage import Guarantee, RoundContext, Setting
from fedsec.randomness import generator
from fedsec.threat import Paper

from .codes import SparseCode
from .compression import CompressionWithMemory, kept
from .known_positions import KnownPositionsCode


def random_positions(size: int, k: int, source: torch.Generator) -> Tensor:
    """``k`` of ``size`` coordinates, uniform without replacement, sorted, ``(k,)`` int64."""
    return torch.randperm(size, generator=source)[:k].sort().values


def only_at(updates: Tensor, positions: Sequence[Tensor]) -> Tensor:
    """Each row of ``(n, d)`` at its positions (one set for all, or one per row), 0 elsewhere."""
    result = torch.zeros_like(updates)
    for row in range(len(updates)):
        at = positions[row % len(positions)].to(updates.device)
        result[row, at] = updates[row, at]
    return result


@dataclass(frozen=True, kw_only=True)
class RandomK(CompressionWithMemory):
    """Send a random ``share`` of the coordinates, drawn anew every round, scaled by ``d / k``.

    Every coordinate is sent with chance ``k / d``, so that the decoded update is the update on average; its squared
    error is ``d / k - 1`` times its squared length. With error feedback values are sent unscaled, as in Stich et al.:
    the scaled operator is no contraction and what clients hold back would grow without bound.

    With ``shared`` all clients choose the same coordinates, from a seed that everybody knows: positions do not
    travel, and the rows can be summed behind encryption or masks without betraying anybody's choice.
    """

    name: ClassVar[str] = "random-k"
    summary: ClassVar[str] = "Sends random coordinates of an update, scaled so that it is right on average"
    paper: ClassVar[Paper | None] = Paper(
        title="Federated Learning: Strategies for Improving Communication Efficiency",
        authors="Konečný, McMahan, Yu, Richtárik, Suresh, Bacon",
        venue="NIPS workshop 2016, arXiv 1610.05492",
        where="section 3, sketched updates by subsampling; with memory Stich et al., NeurIPS 2018, algorithm 1",
    )
    cost: ClassVar[str] = "one permutation per update; the variance grows by d / k"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="nothing by itself: it saves bytes, and leaves attacks fewer coordinates to match",
        against="nobody who reads the update: the coordinates that are sent are exact up to a known factor",
        assuming="clients compress; over several rounds every coordinate is sent",
    )

    share: Annotated[float, Field(gt=0, le=1, description="share of the coordinates that is sent")] = 0.1
    shared: Annotated[
        bool, Field(description="whether all clients of a round choose the same coordinates, from a public seed")
    ] = True

    @property
    def unbiased(self) -> bool:
        """Without error feedback, or with every coordinate."""
        return not self.error_feedback or self.share == 1.0

    def compress(self, updates: Tensor, context: RoundContext) -> tuple[Tensor, Code]:
        """Random coordinates of each row; the code is `KnownPositionsCode`, or `SparseCode` if choices differ."""
        trainable, size = updates.shape[1], context.layout.size
        k = kept(self.share, trainable)
        purposes = [("coordinates", -1)] if self.shared else [("coordinates", client) for client in context.clients]
        positions = [random_positions(trainable, k, context.generator(*purpose)) for purpose in purposes]
        sent = only_at(updates, positions) * (1.0 if self.error_feedback else trainable / k)
        if self.shared:
            return sent, KnownPositionsCode(size, trainable, updates.dtype, positions[0])
        return sent, SparseCode(size, trainable, updates.dtype)


def prune_smallest(updates: Tensor, layout: Layout, share: float) -> Tensor:
    """Set the ``share`` of smallest magnitude of every weight tensor to 0, row by row.

    Args:
        updates: ``(n, trainable)``.
        layout: tells the tensors; those of one axis (biases, scales of norms) stay whole.
        share: of each tensor, rounded down; at least one coordinate stays.
    """
    result = updates.clone()
    for slot in layout.parameters:
        part = result[:, slot.start : slot.stop]
        drop = _pruned(share, slot.stop - slot.start) if len(slot.shape) > 1 else 0
        if drop and len(part):
            part.scatter_(1, part.abs().topk(drop, dim=1, largest=False).indices, 0.0)
    return result


def public_mask(layout: Layout, share: float, *, seed: int) -> Tensor:
    """Positions ``(k,)`` that stay where a random ``share`` of every weight tensor is pruned for good, sorted."""
    stays: list[Tensor] = []
    for slot in layout.parameters:
        size = slot.stop - slot.start
        drop = _pruned(share, size) if len(slot.shape) > 1 else 0
        chosen = random_positions(size, size - drop, generator(seed, "public mask", slot.name))
        stays.append(slot.start + chosen)
    return torch.cat(stays)


def _pruned(share: float, size: int) -> int:
    return min(size - 1, int(share * size * (1 + 1e-12)))


@dataclass(frozen=True, kw_only=True)
class Prune(CompressionWithMemory):
    """Set a ``share`` of each weight tensor of the update to 0: the smallest ones, or those outside a public mask.

    ``smallest`` looks in every tensor at each client's own update (what Zhu et al. tried against their inversion);
    `top-k` looks over the whole vector instead. ``public`` prunes the same random coordinates for all clients and all
    rounds: those parameters keep their initial values, positions do not travel, and sums behind encryption or
    masks work. Biases and the scales of norms stay whole. Nothing is rescaled, so it is biased.
    """

    name: ClassVar[str] = "prune"
    summary: ClassVar[str] = "Sets the smallest entries of each weight's update to zero, or those outside a public mask"
    paper: ClassVar[Paper | None] = Paper(
        title="Deep Leakage from Gradients",
        authors="Zhu, Liu, Han",
        venue="NeurIPS 2019",
        where="section 5, gradient compression as a defense (here of updates, tensor by tensor)",
    )
    cost: ClassVar[str] = "one selection per tensor; accuracy at large shares"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="nothing by itself: it saves bytes, and leaves attacks fewer coordinates to match",
        against="nobody who reads the update: an attack that knows the mask matches what is left",
        assuming="clients prune; what is left is exact",
    )

    share: Annotated[float, Field(ge=0, lt=1, description="share of each weight tensor that is set to zero")] = 0.7
    mask: Annotated[
        Literal["smallest", "public"],
        Field(description="what is pruned: each client's smallest entries, or random ones that are the same for all"),
    ] = "smallest"

    def compress(self, updates: Tensor, context: RoundContext) -> tuple[Tensor, Code]:
        """The pruned rows; the code is `SparseCode`, or `KnownPositionsCode` for the public mask."""
        trainable, size = updates.shape[1], context.layout.size
        if self.mask == "smallest":
            return prune_smallest(updates, context.layout, self.share), SparseCode(size, trainable, updates.dtype)
        positions = public_mask(context.layout, self.share, seed=context.seed)
        return only_at(updates, [positions]), KnownPositionsCode(size, trainable, updates.dtype, positions)

    @property
    def unbiased(self) -> bool:
        """Only if nothing is pruned."""
        return self.share == 0.0

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """See `Compression.problems`; and error feedback behind a public mask."""
        found = list(super().problems(setting))
        if self.error_feedback and self.mask == "public":
            found.append(
                (
                    "error feedback holds back what lies outside of a public mask, and that is never sent",
                    "set `error_feedback: false` or `mask: smallest`",
                )
            )
        return found


__all__ = ["Prune", "RandomK", "only_at", "prune_smallest", "public_mask", "random_positions"]
