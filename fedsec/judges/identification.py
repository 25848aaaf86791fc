"""Identifiability: whether a reconstruction is nearer to the true example than to others that look like it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Identifiability:
    """Where each true example stands among its decoys.

    Attributes:
        ranks: ``(k,)`` int64, place of the true example by distance to its reconstruction; 1 is nearest.
        candidates: the true example and its decoys; chance is one in as many.
    """

    ranks: Tensor
    candidates: int

    @property
    def share(self) -> float:
        """Share of the reconstructions whose true example is nearest; ``nan`` without any."""
        return float((self.ranks == 1).double().mean())

    @property
    def chance(self) -> float:
        """The share that a reconstruction independent of the example has in expectation."""
        return 1 / self.candidates


def identifiability(reconstructions: Tensor, truths: Tensor, decoys: Tensor) -> Identifiability:
    """Rank each true example among decoys by squared error to its reconstruction; a tie counts against it.

    Row ``i`` of the reconstructions is held against row ``i`` of the truths: match a batch of unknown order first
    (`fedsec.judges.matching.match`), and beware that matching to many examples alone makes near ones.

    Args:
        reconstructions: ``(k, *shape)``; a value that is not finite is infinitely far from everything.
        truths: ``(k, *shape)``, the examples that they claim to be.
        decoys: ``(c, *shape)``, examples of the same class for all, or ``(k, c, *shape)`` for each.

    Raises:
        ValueError: the shapes do not fit, or there is no decoy.
    """
    if reconstructions.shape != truths.shape or truths.ndim < 2:
        raise ValueError(
            f"expected reconstructions and truths of one shape (k, *shape), found {tuple(reconstructions.shape)}"
            f" and {tuple(truths.shape)}"
        )
    common = decoys.shape[1:] == truths.shape[1:]
    each = (
        decoys.ndim == truths.ndim + 1 and decoys.shape[:1] == truths.shape[:1] and decoys.shape[2:] == truths.shape[1:]
    )
    if not (common or each):
        raise ValueError(
            f"expected decoys (c, *{tuple(truths.shape[1:])}) or ({len(truths)}, c, *{tuple(truths.shape[1:])}),"
            f" found {tuple(decoys.shape)}"
        )
    count = decoys.shape[0] if common else decoys.shape[1]
    if not count:
        raise ValueError("identifiability needs at least one decoy")
    ranks = []
    for row, (found, true) in enumerate(zip(reconstructions.double(), truths.double(), strict=True)):
        others = (decoys if common else decoys[row]).double()
        error = (found - true).square().sum().nan_to_num(nan=torch.inf)
        apart = (others - found).square().flatten(1).sum(1).nan_to_num(nan=torch.inf)
        ranks.append(1 + int((apart <= error).sum()))
    return Identifiability(torch.tensor(ranks, dtype=torch.int64), count + 1)
