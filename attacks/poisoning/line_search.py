"""ByzFL's optimised attacks: IPM and ALIE whose strength is searched against the server's own rule.

The search of the literature's experiments, with its budget: one direction, one side of it, 20 trials. `tailored` is the
stronger one. This one is here because published tables were measured with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .damage import Line, Rule, damage_of
from .known_rule import stand_ins
from .model import known_updates, strength
from .texts import MODEL_POISONING, Fraction, Omniscient
from .vectors import check_honest, deviation_of, mean_of

Along = Literal["mean", "std"]


def climb(value: Callable[[float], float], *, evaluations: int, first: float, ratio: float) -> float:
    """A maximum of ``value`` on the non-negative numbers, or a point on the way to one.

    From 0 in steps that double as long as each is a gain; from the best point on in steps that shrink by ``ratio``,
    taken where they are a gain.

    Args:
        value: what is climbed.
        evaluations: calls of ``value`` in all.
        first: the first step.
        ratio: in (0, 1).
    """
    best, height, step = 0.0, value(0.0), first
    growing = True
    for _ in range(evaluations - 1):
        tried = best + step
        reached = value(tried)
        gain = reached > height
        if gain:
            best, height = tried, reached
        growing = growing and gain
        step *= 2.0 if growing else ratio
    return best


def line_search(
    H: Tensor,
    rule: Rule,
    *,
    f: int,
    n: int,
    direction: Along = "mean",
    evaluations: int = 20,
    first: float = 10.0,
    ratio: float = 0.8,
    reach: float = math.inf,
) -> Tensor:
    """``-tau * mean(H)`` or ``mean(H) - tau * std(H)`` with the ``tau >= 0`` by which a short search harms a rule most.

    The optimised IPM and ALIE of ByzFL (Allouah et al. 2023, appendix on experiments). Harm is
    ``|rule([H; f copies]) - mean(H)|``; of a coordinate-wise rule it is estimated from a sample of coordinates.

    Args:
        H: ``(h, d)``, ``h >= 2``, honest updates; the simulated round has ``h + f`` rows.
        rule: ``(h + f, d)`` to ``(d,)``, without memory.
        f: the adversary's updates.
        n: updates in the round.
        direction: ``mean``: IPM; ``std``: ALIE.
        evaluations: trials.
        first: first step of ``tau``.
        ratio: by which steps shrink, in (0, 1).
        reach: longest push that counts as a gain, in radii: the larger of ``max_i |x_i - mean|`` and ``|mean|``.

    Raises:
        ValueError: fewer than two rows, not finite, or not ``0 < f < n``. What the rule raises passes through.
    """
    check_honest(H, f, n, least=2)
    mean = mean_of(H)
    # mean + gamma * push: tau * mean is reached from the mean by 1 + tau
    push, offset = (-mean, 1.0) if direction == "mean" else (-deviation_of(H), 0.0)
    damage = damage_of(rule, Line(H, mean, (push,), copies=f))
    radius = float(torch.cat([geometry.row_norms(H, centre=mean), geometry.row_norms(mean.unsqueeze(0))]).max())
    longest = reach * radius / max(float(geometry.row_norms(push.unsqueeze(0))), torch.finfo(torch.float64).tiny)

    def value(tau: float) -> float:
        return damage.of(0, [offset + tau], rough=False)[0] if offset + tau <= longest else -math.inf

    tau = climb(value, evaluations=evaluations, first=first, ratio=ratio)
    return mean + (offset + tau) * push


@dataclass(frozen=True, kw_only=True)
class LineSearch(Adversary):
    """All controlled clients send one vector along the honest mean or deviation, as long as a short search says.

    With ``omniscient`` the simulated round is the real one. Otherwise the honest rows are stand-ins with the mean and
    the covariance of the coalition's own honest updates. The server is rehearsed without memory of earlier rounds.
    """

    fraction: Fraction = 0.2
    omniscient: Omniscient = False
    direction: Annotated[
        Along, Field(description="mean: the honest mean reversed (IPM); std: off the mean by deviations (ALIE)")
    ] = "mean"
    evaluations: Annotated[int, Field(ge=2, le=1000, description="Trials of the rule per round")] = 20
    first: Annotated[float, Field(gt=0.0, description="First step of the strength, in means or in deviations")] = 10.0
    ratio: Annotated[float, Field(gt=0.0, lt=1.0, description="Factor by which steps shrink after the peak")] = 0.8
    reach: Annotated[
        float,
        Field(
            gt=0.0, le=1e8, description="Longest push, in radii of the honest updates: against a rule without a bound"
        ),
    ] = 1e3

    name: ClassVar[str] = "line-search"
    summary: ClassVar[str] = "IPM or ALIE whose strength a short search picks against the server's own rule"
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
        authors="Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan",
        venue="AISTATS 2023",
        where="experiments (optimised ALIE and FOE), with the search of the ByzFL library",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Some participants know how the server combines updates and try a few strengths of a known attack on it",
        position="client",
        knowledge=frozenset({Knowledge.HONEST_UPDATES, Knowledge.AGGREGATION_RULE}),
        capabilities=frozenset({Capability.MODEL_CONTROL}),
        stage=Stage.TRAINING,
    )
    judge: ClassVar[str] = "availability"
    adaptive_to: ClassVar[frozenset[str]] = frozenset({"robust aggregation", "clipping", "anomaly detection"})
    cost: ClassVar[str] = "honest training of the controlled clients, then 20 trials of the rule a round"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """One vector for all controlled clients, ``(k, d)``; their own updates while fewer than two are known."""
        known = known_updates(coalition, omniscient=self.omniscient)
        if len(known) < 2:
            return coalition.own
        f, n = strength(coalition)
        honest = known if self.omniscient else stand_ins(known, max(n - f, 2), generator=generator)
        size = len(honest) + f
        server = facts.aggregate
        vector = line_search(
            honest,
            server.function(size) or partial(server, model=coalition.model),
            f=f,
            n=size,
            direction=self.direction,
            evaluations=self.evaluations,
            first=self.first,
            ratio=self.ratio,
            reach=self.reach,
        )
        return vector.to(coalition.own).expand_as(coalition.own).clone()
