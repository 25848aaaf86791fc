"""Clients look at a model before they train on it, and send nothing if it looks planted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.models.flat import FlatModel
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext
from fedsec.statistics.intervals import auc
from fedsec.statistics.intervals import steps as corners
from fedsec.threat import Paper, Taxonomy

from .signs import SIGNS, honest_walks, most_copies, signs_of, spread

CERTAIN = 1e6
"""Score of a model that is refused whatever it looks like."""


@dataclass(frozen=True)
class Suspicion:
    """How a model looks.

    Attributes:
        score: the largest of ``parts``; `CERTAIN` for a changed architecture.
        parts: each sign's distance from honest models, in their deviations.
        signs: ``(6,)`` float64, the signs themselves.
    """

    score: float
    parts: dict[str, float]
    signs: Tensor


@dataclass(frozen=True)
class Detection:
    """How well scores tell planted models from honest ones.

    Attributes:
        fpr: false positive rates of the ROC's corners, ascending.
        tpr: true positive rates there.
        auc: area under it, ties counted half.
    """

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    auc: float

    def tpr_at(self, rate: float) -> float:
        """Share of planted models that are found where at most ``rate`` of the honest ones are refused."""
        return max((t for f, t in zip(self.fpr, self.tpr, strict=True) if f <= rate), default=0.0)


def detection(honest: Sequence[float], planted: Sequence[float]) -> Detection:
    """ROC of scores of honest models (of all rounds) and of planted ones, higher is more suspicious."""
    scores = np.array([*honest, *planted])
    truths = np.array([False] * len(honest) + [True] * len(planted))
    fpr, tpr = corners(scores, truths)
    return Detection(tuple(map(float, fpr)), tuple(map(float, tpr)), float(auc(scores, truths)))


def suspicion(
    vector: Tensor,
    previous: Tensor,
    shard: Examples,
    *,
    sent: FlatModel,
    agreed: FlatModel,
    generator: torch.Generator,
    examples: int = 64,
    walks: int = 3,
    steps: int = 3,
    accepted: Tensor | None = None,
    changed_is_certain: bool = True,
) -> Suspicion:
    """How unlike honest models a model is that a client was sent.

    Honest models are the one before, what short trainings on the client's own data make of it, and those that it
    accepted before.

    Args:
        vector: ``(d,)`` what was sent.
        previous: the newest model that was sent before, of the agreed architecture.
        shard: the client's data.
        sent: architecture of what was sent.
        agreed: architecture that was agreed on.
        generator: draws the examples that are looked at and the simulated trainings.
        examples: at the most that signs are computed on.
        walks: simulated trainings.
        steps: of each.
        accepted: ``(k, 6)`` signs of models that were accepted before.
        changed_is_certain: whether another architecture alone is proof.
    """
    rows = torch.randperm(len(shard), generator=generator)[:examples]
    batch = shard.take(rows)
    changed = sent.layout != agreed.layout
    signs = signs_of(sent, vector, None if changed else previous, batch)
    known = honest_walks(
        agreed, previous, batch, walks=walks, steps=steps, rates=(0.003, 0.03, 0.1), generator=generator
    )
    # A few steps of training make no copies of rows, so those of the model before stand for all.
    copies = most_copies(agreed, previous)
    honest = torch.stack([signs_of(agreed, model, before, batch, copies=copies) for model, before in known])
    mean, deviation = spread(honest if accepted is None else torch.cat([honest, accepted]))
    apart = (signs - mean) / deviation
    parts = {name: float(value) for name, value in zip(SIGNS, apart, strict=True)}
    score = CERTAIN if changed and changed_is_certain else max(parts.values())
    return Suspicion(min(score, CERTAIN), parts, signs)


@dataclass(frozen=True, kw_only=True)
class InspectModel(Defense):
    """A client refuses a model that is further from honest ones than chance allows.

    Six signs: copies among the rows of a layer, rows whose gradient one example has for itself, silent pairs of example
    and row, the disaggregation signal-to-noise ratio of Garov et al. (D-SNR), an unbalanced head, and the step since
    the model before. Each is measured in deviations from honest models, which the client makes itself: it trains the
    model before on its own data. The threshold is the normal quantile for ``false_positives``, shared by the signs; it
    is a calibration, not a proof, as signs of honest models are not exactly normal. A server that knows the signs can
    keep each of them below it, at the price of catching less. A client in the same way remembers what it accepted, so a
    server may move it in small steps.
    """

    name: ClassVar[str] = "inspect-model"
    summary: ClassVar[str] = "Clients refuse a model whose weights or gradients look made to single out examples"
    family: ClassVar[str] = "model inspection"
    paper: ClassVar[Paper | None] = Paper(
        title="Hiding in Plain Sight: Disguising Data Stealing Attacks in Federated Learning",
        authors="Garov, Dimitrov, Jovanović, Vechev",
        venue="ICLR 2024",
        where="section 4, D-SNR; the other signs follow from the attacks themselves",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("mitre-atlas-5.6", "AML.M0008", "Validate AI Model", "partial"),
    )
    cost: ClassVar[str] = "some ten passes over a small batch per client and round"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="examples from models that were made to single them out",
        against="a server that sends planted models",
        assuming="the model before was honest. It proves nothing, and does nothing against a curious server that sends"
        " honest models and inverts what comes back",
    )

    false_positives: Annotated[
        float, Field(gt=0, lt=0.5, description="Honest models that a client is prepared to refuse, as a share")
    ] = 0.01
    examples: Annotated[int, Field(ge=2, description="Own examples that a model is looked at with, at most")] = 64
    walks: Annotated[
        int, Field(ge=1, description="Short trainings by which a client learns how honest models look")
    ] = 3
    steps: Annotated[int, Field(ge=1, description="Gradient steps of each of these trainings")] = 3
    changed_architecture: Annotated[
        bool, Field(description="refuse any model of another architecture than the agreed one")
    ] = True

    @property
    def enforcement(self) -> EnforcedBy:
        """Clients look."""
        return EnforcedBy.CLIENT

    @property
    def threshold(self) -> float:
        """Largest score that is accepted, in deviations of honest models."""
        return float(-torch.special.ndtri(torch.tensor(self.false_positives / len(SIGNS), dtype=torch.float64)))

    def inspect(self, model: Tensor, previous: Tensor, shard: Examples, context: RoundContext) -> bool:
        """See `Defense.inspect`; remembers the signs of what it accepts."""
        if context.sent is None or context.agreed is None:
            raise ValueError("a client inspects a model whose architecture it was told")
        client = context.clients[0]
        memory = f"accepted/{client}"
        found = suspicion(
            model,
            previous,
            shard,
            sent=context.sent,
            agreed=context.agreed,
            generator=context.generator("inspect", client),
            examples=self.examples,
            walks=self.walks,
            steps=self.steps,
            accepted=context.state.get(memory),
            changed_is_certain=self.changed_architecture,
        )
        accepted = not math.isnan(found.score) and found.score <= self.threshold
        context.report["suspicion"] = found.score if math.isfinite(found.score) else CERTAIN
        context.report["refused"] = 0.0 if accepted else 1.0
        if accepted:
            row = found.signs.unsqueeze(0)
            context.state[memory] = torch.cat([context.state[memory], row]) if memory in context.state else row
        return accepted
