"""The adversary that knows how the server aggregates, and searches for what harms it most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .model import known_updates, strength
from .tailored import tailored
from .texts import MODEL_POISONING, Fraction, Omniscient
from .vectors import Direction


def stand_ins(known: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Rows that vary like the known ones: ``(h, d)`` to ``(count, d)``.

    ``mean + sum_i g_i (x_i - mean) / sqrt(h - 1)`` with standard normal ``g``: Gaussian with the mean and the
    covariance of the rows, so that distances between them are as large as those between the rows.

    Args:
        known: ``(h, d)``, ``h >= 2``.
        count: rows wanted.
        generator: on the CPU.
    """
    h = known.shape[0]
    draw = torch.randn(count, h, generator=generator, dtype=torch.float64) / math.sqrt(h - 1)
    shares = draw - draw.mean(dim=1, keepdim=True) + 1.0 / h
    return geometry.combine_many(known, shares)


@dataclass(frozen=True, kw_only=True)
class Tailored(Adversary):
    """The search against the server's own rule, with everything else that its public stack does to plain updates.

    With ``omniscient`` the simulated round is the real one. Otherwise the honest rows are stand-ins with the mean and
    the covariance of the coalition's own honest updates. The server is rehearsed without memory of earlier rounds.
    """

    fraction: Fraction = 0.2
    omniscient: Omniscient = False
    direction: Annotated[
        Direction | None, Field(description="The only direction of the push: std, unit or sign; empty: all three")
    ] = None
    reach: Annotated[
        float,
        Field(
            gt=0.0, le=1e8, description="Longest push, in radii of the honest updates: against a rule without a bound"
        ),
    ] = 100.0

    name: ClassVar[str] = "tailored"
    summary: ClassVar[str] = "Searches for the update that moves the server's own rule furthest from the honest mean"
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated Learning",
        authors="Shejwalkar, Houmansadr",
        venue="NDSS 2021",
        where="section 4.2 (tailored to the aggregation rule)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Some participants know how the server combines updates and agree on the one that harms it most",
        position="client",
        knowledge=frozenset({Knowledge.HONEST_UPDATES, Knowledge.AGGREGATION_RULE}),
        capabilities=frozenset({Capability.MODEL_CONTROL}),
        stage=Stage.TRAINING,
    )
    judge: ClassVar[str] = "availability"
    adaptive_to: ClassVar[frozenset[str]] = frozenset({"robust aggregation", "clipping", "anomaly detection"})
    cost: ClassVar[str] = (
        "honest training of the controlled clients; some 400 trials of n^2 or of a sample of coordinates a round, "
        "or 100 of the whole rule where it has no such form"
    )

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """One vector for all controlled clients, ``(k, d)``; their own updates while fewer than two are known."""
        known = known_updates(coalition, omniscient=self.omniscient)
        if len(known) < 2:
            return coalition.own
        f, n = strength(coalition)
        honest = known if self.omniscient else stand_ins(known, max(n - f, 2), generator=generator)
        size = len(honest) + f
        server = facts.aggregate
        rule = server.function(size) or partial(server, model=coalition.model)
        vector = tailored(honest, rule, f=f, n=size, direction=self.direction, reach=self.reach)
        return vector.to(coalition.own).expand_as(coalition.own).clone()
