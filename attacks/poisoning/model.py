"""Model poisoning: adversaries that choose what their clients send.

What an attack estimates from its own clients, it estimates from the updates of real ones: Sybils share their data and
would make honest updates look less varied than they are. Two updates are the least that a deviation can be
estimated from. A cohort with fewer is completed from the updates of earlier rounds, which the coalition remembers; as
long as there are not two in all, its clients send what their training gave.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.errors import NotKnownError
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .texts import MODEL_POISONING, Fraction, Omniscient, model_threat
from .vectors import Direction, alie, ipm, min_max, min_sum

MEMORY = 8
"""Own updates of earlier rounds that a coalition keeps at the most."""

_SHEJWALKAR = Paper(
    title="Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated Learning",
    authors="Shejwalkar, Houmansadr",
    venue="NDSS 2021",
    where="section 4.3 (agnostic to the aggregation rule)",
)


def known_updates(coalition: CoalitionView, *, omniscient: bool) -> Tensor:
    """The updates whose statistics stand for the honest ones, ``(h, d)``; keeps own ones in the coalition's state.

    Args:
        coalition: the controlled clients of the round.
        omniscient: take the honest updates themselves.

    Returns:
        The honest updates, or the own updates of real clients (of Sybils, if there are no others), newest first,
        completed from earlier rounds if they are fewer than two.

    Raises:
        NotKnownError: ``omniscient``, and the honest updates were not handed over.
    """
    if omniscient:
        if coalition.honest is None:
            raise NotKnownError(
                "an omniscient attack needs the honest updates of the round, which were not handed over"
            )
        return coalition.honest
    real = coalition.own[~coalition.is_sybil]
    own = real if len(real) else coalition.own[:1]
    earlier = coalition.state.get("own updates", own[:0])
    seen = torch.cat([own[:MEMORY], earlier])[:MEMORY].clone()
    coalition.state["own updates"] = seen
    return own if len(own) >= 2 else seen


def strength(coalition: CoalitionView) -> tuple[int, int]:
    """``(f, n)`` of the round: own updates and expected updates, ``0 < f < n``."""
    f = len(coalition.clients)
    return f, max(coalition.expected_cohort, f + 1)


@dataclass(frozen=True, kw_only=True)
class SignFlip(Adversary):
    """Each controlled client trains honestly and sends its own update times ``-scale``."""

    fraction: Fraction = 0.2
    scale: Annotated[float, Field(gt=0.0, description="Factor on the flipped update")] = 4.0

    name: ClassVar[str] = "sign-flip"
    summary: ClassVar[str] = "Sends each controlled client's own update reversed and scaled, which undoes learning"
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from Heterogeneous "
        "Datasets",
        authors="Li, Xu, Chen, Giannakis, Ling",
        venue="AAAI 2019",
        where="section 5, sign-flipping attack (scale 4)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants send the opposite of what they learned, so that the shared model does not learn",
        may_be_omniscient=False,
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Own updates times ``-scale``, ``(k, d)``."""
        return coalition.own * -self.scale


@dataclass(frozen=True, kw_only=True)
class SharedVector(Adversary):
    """An adversary whose clients all send one vector, made from the updates that it knows."""

    fraction: Fraction = 0.2
    omniscient: Omniscient = False

    family: ClassVar[str] = "model poisoning"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "honest training of the controlled clients, then h^2 d"
    _least: ClassVar[int] = 2

    @abstractmethod
    def vector(self, known: Tensor, *, f: int, n: int) -> Tensor:
        """The malicious update ``(d,)`` from known updates ``(h, d)``."""

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """One vector for all controlled clients, ``(k, d)``; their own updates while too few are known."""
        known = known_updates(coalition, omniscient=self.omniscient)
        if len(known) < self._least:
            return coalition.own
        f, n = strength(coalition)
        return self.vector(known, f=f, n=n).expand_as(coalition.own).clone()


@dataclass(frozen=True, kw_only=True)
class ALittleIsEnough(SharedVector):
    """A Little Is Enough; by default the paper's non-omniscient adversary.

    A majority of attackers has no finite ``z``: there ``f`` counts as the largest minority, ``floor(n / 2)``. Of two
    updates in all, neither can hide; there ``z`` is 0. A ``z`` near 0 (``f / n`` below 0.2) says that the attack has no
    room.
    """

    z: Annotated[
        float | None,
        Field(ge=0.0, description="Standard deviations from the mean; empty: the paper's z from f and n"),
    ] = None

    name: ClassVar[str] = "alie"
    summary: ClassVar[str] = "Sends the mean shifted in every coordinate by as little as hides among honest updates"
    paper: ClassVar[Paper | None] = Paper(
        title="A Little Is Enough: Circumventing Defenses For Distributed Learning",
        authors="Baruch, Baruch, Goldberg",
        venue="NeurIPS 2019",
        where="algorithm 3",
    )
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants agree on an update that lies inside the normal spread and still ruins the shared model",
        may_be_omniscient=True,
    )

    def vector(self, known: Tensor, *, f: int, n: int) -> Tensor:
        """`alie` of the known updates."""
        minority = min(f, n // 2)
        return alie(known, f=minority, n=n, z=0.0 if n == 2 and self.z is None else self.z)


@dataclass(frozen=True, kw_only=True)
class InnerProductManipulation(SharedVector):
    """Inner-product manipulation, also called Empire."""

    epsilon: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="Factor on the reversed mean; 0.1 to 0.5 evades robust rules; empty: 2 (n - f) / f, which "
            "reverses the plain mean",
        ),
    ] = None

    name: ClassVar[str] = "ipm"
    summary: ClassVar[str] = "Sends the mean update reversed and scaled, so that the aggregate points uphill"
    paper: ClassVar[Paper | None] = Paper(
        title="Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation",
        authors="Xie, Koyejo, Gupta",
        venue="UAI 2019",
        where="section 4",
    )
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants agree on the opposite of what the others learn, sized to pass or to overrule them",
        may_be_omniscient=True,
    )
    _least: ClassVar[int] = 1

    def vector(self, known: Tensor, *, f: int, n: int) -> Tensor:
        """`ipm` of the known updates."""
        return ipm(known, f=f, n=n, epsilon=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class MinMax(SharedVector):
    """Min-Max."""

    direction: Annotated[
        Direction, Field(description="Where it pushes: against the deviation, the mean, or the mean's signs")
    ] = "std"

    name: ClassVar[str] = "min-max"
    summary: ClassVar[str] = "Pushes the mean as far as no distance grows beyond the largest between honest updates"
    paper: ClassVar[Paper | None] = _SHEJWALKAR
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants agree on the most harmful update that is no further from anyone than honest ones are",
        may_be_omniscient=True,
    )

    def vector(self, known: Tensor, *, f: int, n: int) -> Tensor:
        """`min_max` of the known updates."""
        return min_max(known, f=f, n=n, direction=self.direction)


@dataclass(frozen=True, kw_only=True)
class MinSum(SharedVector):
    """Min-Sum."""

    direction: Annotated[
        Direction, Field(description="Where it pushes: against the deviation, the mean, or the mean's signs")
    ] = "std"

    name: ClassVar[str] = "min-sum"
    summary: ClassVar[str] = "Pushes the mean as far as its summed distances stay within those of an honest update"
    paper: ClassVar[Paper | None] = _SHEJWALKAR
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants agree on the most harmful update that on the whole is as close to others as honest ones",
        may_be_omniscient=True,
    )

    def vector(self, known: Tensor, *, f: int, n: int) -> Tensor:
        """`min_sum` of the known updates."""
        return min_sum(known, f=f, n=n, direction=self.direction)
