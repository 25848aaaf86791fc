"""Updates that need no plan: noise, zeros, values that are no numbers, and boosted honest updates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .texts import MODEL_POISONING, Fraction, model_threat
from .vectors import gaussian

_BLANCHARD = Paper(
    title="Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    authors="Blanchard, El Mhamdi, Guerraoui, Stainer",
    venue="NeurIPS 2017",
    where="section 5, Gaussian Byzantine workers",
)


@dataclass(frozen=True, kw_only=True)
class GaussianUpdate(Adversary):
    """Each controlled client sends independent Gaussian noise.

    The paper's noise has the standard deviation 200 in the unit of gradients; here its size is stated in that of the
    client's own honest update, so that it means the same for every model and learning rate.
    """

    fraction: Fraction = 0.2
    scale: Annotated[
        float,
        Field(gt=0.0, description="Standard deviation, in root mean squares of the client's own honest update"),
    ] = 100.0

    name: ClassVar[str] = "gaussian-update"
    summary: ClassVar[str] = "Sends Gaussian noise instead of an update"
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = _BLANCHARD
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants send noise, by malice or because something is broken", may_be_omniscient=False
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Noise, ``(k, d)``; zeros for a client whose own update is zero."""
        own = coalition.own
        sizes = geometry.row_norms(own) / math.sqrt(own.shape[1])
        rows = [
            gaussian(own[i : i + 1], f=1, n=2, generator=generator, sigma=self.scale * float(size))
            for i, size in enumerate(sizes)
        ]
        return torch.stack(rows)


@dataclass(frozen=True, kw_only=True)
class ZeroUpdate(Adversary):
    """Each controlled client answers with no change at all: the mildest Byzantine client, which only slows learning."""

    fraction: Fraction = 0.2

    name: ClassVar[str] = "zero-update"
    summary: ClassVar[str] = "Sends updates of zeros, which slow learning by the controlled share"
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from Heterogeneous "
        "Datasets",
        authors="Li, Xu, Chen, Giannakis, Ling",
        venue="AAAI 2019",
        where="section 5, same-value attack, here with the value 0 in an update",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants send the model back as it was, which slows the learning of all", may_be_omniscient=False
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Zeros, ``(k, d)``."""
        return torch.zeros_like(coalition.own)


@dataclass(frozen=True, kw_only=True)
class NonFiniteUpdate(Adversary):
    """Each controlled client sends its honest update with values in it that are no numbers.

    One such value makes the mean, and most rules as libraries ship them, useless; a server that checks what it receives
    drops the update and loses nothing but that client.
    """

    fraction: Fraction = 0.2
    value: Annotated[
        Literal["nan", "inf", "-inf"], Field(description="What stands in the place of some coordinates")
    ] = "nan"
    coordinates: Annotated[int, Field(ge=1, description="Coordinates that are replaced, at random, at most all")] = 1

    name: ClassVar[str] = "nan-update"
    summary: ClassVar[str] = (
        "Hides NaN or infinity in an honest update, which ruins a model whose server does not check"
    )
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
        authors="Blanchard, El Mhamdi, Guerraoui, Stainer",
        venue="NeurIPS 2017",
        where="section 2, Byzantine workers may send anything",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants send values that are no numbers, so that the shared model becomes none either",
        may_be_omniscient=False,
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Own updates with ``coordinates`` values replaced in each, ``(k, d)``."""
        rows = coalition.own.clone()
        for row in rows:
            places = torch.randperm(rows.shape[1], generator=generator)[: self.coordinates]
            row[places.to(rows.device)] = float(self.value)
        return rows


@dataclass(frozen=True, kw_only=True)
class Scaling(Adversary):
    """Each controlled client sends its own honest update times ``factor``: the boosting of Bhagoji et al. 2019.

    Boosting alone aims at nothing; it shows how much weight a rule lets a client claim. With a poisoned data set
    it is the model replacement of backdoors.
    """

    fraction: Fraction = 0.2
    factor: Annotated[float, Field(gt=0.0, description="Factor on the own update")] = 10.0

    name: ClassVar[str] = "scaling"
    summary: ClassVar[str] = "Boosts each controlled client's own update, so that it outweighs the others"
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="Analyzing Federated Learning through an Adversarial Lens",
        authors="Bhagoji, Chakraborty, Mittal, Calo",
        venue="ICML 2019",
        where="section 3.2, explicit boosting",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants exaggerate what they learned, so that they count for more than everybody else",
        may_be_omniscient=False,
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Own updates times ``factor``, ``(k, d)``."""
        return coalition.own * self.factor
