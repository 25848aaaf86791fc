"""Identifiability: whether a reconstruction is nearer to the true example than to others that look like it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsec.data.examples import Examples

CANDIDATES = 20
"""The true example and its decoys; a guess ranks the true one first once in as many."""


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
    ranks = [
        true_rank(found, true, decoys if common else decoys[row])
        for row, (found, true) in enumerate(zip(reconstructions, truths, strict=True))
    ]
    return Identifiability(torch.tensor(ranks, dtype=torch.int64), count + 1)


def true_rank(found: Tensor, true: Tensor, decoys: Tensor) -> int:
    """Rank of the true example by squared error to the reconstruction, 1 is best; a tie counts against it.

    Args:
        found: ``shape``.
        true: ``shape``.
        decoys: ``(c, *shape)``.
    """
    error = (found.double() - true.double()).square().sum().nan_to_num(nan=torch.inf)
    others = (decoys.double() - found.double()).square().flatten(1).sum(1).nan_to_num(nan=torch.inf)
    return 1 + int((others <= error).sum())


@dataclass(frozen=True)
class Contest:
    """What one true example is told apart from, and what an adversary without the view would say.

    Attributes:
        decoys: ``(c, *shape)`` examples of its class.
        blind: inputs ``shape`` by name of the guess.
    """

    decoys: Tensor
    blind: dict[str, Tensor]


def contest(label: Tensor, decoys: Examples, *, classes: bool, generator: torch.Generator) -> Contest:
    """Draw the decoys of one example and the guesses of an adversary that knows its class and sees no update.

    The guesses are the mean of all public examples of the class and a random one of them (one that is no decoy
    itself, unless all are). The nearest public example is a decoy, so it cannot be a guess.

    Args:
        label: class (or target) of the example.
        decoys: public examples.
        classes: whether only decoys of the same class count; all do if the class has none.
        generator: draws them.
    """
    same = torch.nonzero(decoys.y == label).flatten() if classes else torch.arange(len(decoys))
    rows = same if len(same) else torch.arange(len(decoys))
    order = rows[torch.randperm(len(rows), generator=generator)]
    drawn, rest = order[: CANDIDATES - 1], order[CANDIDATES - 1 :]
    return Contest(
        decoys.x[drawn],
        {"mean image": decoys.x[rows].mean(0), "random example": decoys.x[rest[0] if len(rest) else order[0]]},
    )


def nearest_public(true: Tensor, labels: Tensor, public: Examples, *, classes: bool) -> Tensor:
    """For each true example the public one of its class that is most like it and not equal to it; ``(p, *shape)``.

    What an adversary could at best show without any update, if an oracle chose from the public examples for it: a
    reconstruction that is no nearer to the truth reveals nothing that the public data does not.

    Args:
        true: ``(p, *shape)``.
        labels: ``(p,)`` their classes or targets.
        public: examples of the population that no client holds; at least one.
        classes: whether only examples of the same class count; all do if the class has none.
    """
    rows = []
    for x, y in zip(true, labels, strict=True):
        same = public.x[public.y == y] if classes else public.x
        pool = same if len(same) else public.x
        apart = (pool.double() - x.double()).square().flatten(1).sum(1)
        rows.append(pool[torch.where(apart > 0, apart, torch.inf).argmin()])
    return torch.stack(rows) if rows else true[:0]
