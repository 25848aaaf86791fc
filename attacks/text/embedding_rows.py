"""The tokens of a client, read off the rows of the embedding that its update moved.

The gradient of a table of embeddings has a row for each token, and only those of tokens that the batch contains are not
zero. With plain averaging and an optimizer without weight decay the set of moved rows is the set of tokens, exactly and
whatever the number of local steps. It is the baseline that every attack on text must beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from scipy.stats import chi2
from torch import Tensor

from fedsec.data.tokens import PADDING
from fedsec.protocol.evidence import TokenReconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.view import View
from fedsec.threat import Capability, Paper, Stage, ThreatModel

from .base import TextAttack, choose, embedding_slot, rows_of

COLLINEAR = 0.99
"""Cosine to its own weights above which a row only shrank."""

ROUNDED = 4 * 2.0**-24
"""Share of a row's weights that rounding in float32 moves it by at the most, over a few local steps."""


@dataclass(frozen=True)
class MovedRows:
    """Rows of an embedding that an update moved.

    Attributes:
        tokens: ``(k,)`` int64, those that moved most first.
        length: ``(k,)`` how far each moved, in units of the noise if there is noise.
        noise: standard deviation of a coordinate of the rows that no token moved; 0 if they are exactly zero.
    """

    tokens: Tensor
    length: Tensor
    noise: float


def moved_rows(update: Tensor, weights: Tensor, *, error: float = 1e-3) -> MovedRows:
    """Rows that were moved by more than weight decay and noise.

    Where some rows are exactly zero nothing filled them, and every other row is a token. Else rows were filled by
    weight decay or by noise: the decay is the median coefficient of the update on the weights and is subtracted; what
    is left of the rows without a token has chi-square squared lengths, whose scale is taken from the median row. This
    needs fewer than half of the vocabulary in the update; an update in clear with more of it is `all_moved`.

    Args:
        update: ``(v, w)`` rows of the update.
        weights: ``(v, w)`` rows of the model that it started from.
        error: probability that any row without a token is returned, under Gaussian noise.
    """
    rows, base = update.double(), weights.double()
    length = rows.norm(dim=1)
    noise = 0.0
    if bool((length > 0).all()):
        decay = ((rows * base).sum(1) / base.square().sum(1).clamp_min(1e-30)).median()
        rows = rows - decay * base
        length = rows.norm(dim=1)
        width = rows.shape[1]
        noise = float((length.square().median() / chi2.median(width)).sqrt())
        limit = noise * float(chi2.isf(error / len(rows), width)) ** 0.5
        keep = length > (ROUNDED * base.norm(dim=1)).clamp_min(limit)
    else:
        keep = length > 0
    tokens = keep.nonzero().flatten()
    order = length[tokens].argsort(descending=True, stable=True)
    tokens = tokens[order]
    return MovedRows(tokens, (length[tokens] / noise if noise else length[tokens]), noise)


def all_moved(update: Tensor, weights: Tensor) -> bool:
    """Whether an update without noise moved most rows: they are neither zero nor shrunk copies of their weights."""
    cosine = torch.nn.functional.cosine_similarity(update.double(), weights.double(), dim=1)
    touched = (update != 0).any(1) & (cosine.abs() < COLLINEAR)
    return bool(touched.double().mean() >= 0.5)


def leaked(update: Tensor, weights: Tensor, *, clear: bool, error: float) -> MovedRows:
    """`moved_rows`, and every touched row where the update is known to be in clear and most rows moved.

    Args:
        update: ``(v, w)``.
        weights: ``(v, w)``.
        clear: whether nothing in the stack changes an update.
        error: see `moved_rows`.
    """
    if clear and all_moved(update, weights):
        length = update.double().norm(dim=1)
        tokens = (length > 0).nonzero().flatten()
        return MovedRows(tokens, length[tokens], 0.0)
    return moved_rows(update, weights, error=error)


@dataclass(frozen=True, kw_only=True)
class EmbeddingRows(TextAttack):
    """Claims one set of tokens per update; knows nothing but the update, the model and the stack."""

    name: ClassVar[str] = "embedding-rows"
    summary: ClassVar[str] = "Reads which words a client used off the embedding rows that its update moved"
    paper: ClassVar[Paper | None] = Paper(
        title="Exploiting Unintended Feature Leakage in Collaborative Learning",
        authors="Melis, Song, De Cristofaro, Shmatikov",
        venue="IEEE S&P 2019",
        where="section 4.1 (leakage from the embedding layer)",
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        "A curious server looks which rows of the word table a client's update changed.",
        "server",
        frozenset(),
        frozenset({Capability.OBSERVE_UPDATES}),
        Stage.TRAINING,
    )
    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {"clipping", "homomorphic encryption", "differential privacy", "robust aggregation", "anomaly detection"}
    )
    cost: ClassVar[str] = "one norm per row of the embedding"

    targets: Annotated[int, Field(ge=1, description="Updates attacked, those with the fewest examples first")] = 64
    error: Annotated[
        float, Field(gt=0, lt=1, description="Probability of any false token in an update with Gaussian noise")
    ] = 0.001

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> TokenReconstructions:
        """Attack the view.

        Raises:
            NotApplicable: no tokens, no update, or no embedding of its own.
        """
        slot = embedding_slot(facts.model, facts.info.vocabulary)
        victims = choose(view, facts, targets=self.targets)
        claims = []
        for victim in victims:
            rows = leaked(
                rows_of(slot, victim.update), rows_of(slot, victim.model), clear=not facts.stack, error=self.error
            )
            claims.append(rows.tokens[rows.tokens != PADDING])
        return TokenReconstructions(
            sources=tuple(victim.source for victim in victims),
            tokens=tuple(claims),
            ordered=False,
            confidence=torch.tensor([float(len(one) > 0) for one in claims]),
        )
