"""What every inversion attack shares: its threat model, the taxonomies, and how victims are grouped."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Attack
from fedsec.threat import Capability, Knowledge, Stage, Taxonomy, ThreatModel

from .labels import recover
from .layers import head
from .victims import WANTS, Victim

PROBES = 256
"""Random inputs on which a model's mean prediction is taken."""

INVERSION = (
    Taxonomy("nist-ai-100-2e2025", "NISTAML.032", "Reconstruction", "partial"),
    Taxonomy("mitre-atlas-5.6", "AML.T0024.001", "Invert AI Model", "partial"),
    Taxonomy("owasp-ml-2023", "ML03", "Model Inversion Attack", "partial"),
)
"""NIST and ATLAS define inversion through a trained model's interface; none of the three names reading updates."""


def threat_of(story: str, *knowledge: Knowledge) -> ThreatModel:
    """The threat model of an honest-but-curious server that reads updates."""
    return ThreatModel(story, "server", frozenset(knowledge), frozenset({Capability.OBSERVE_UPDATES}), Stage.TRAINING)


def start(shape: tuple[int, ...], init: str, bounds: tuple[float, float], *, generator: torch.Generator) -> Tensor:
    """Starting points: ``uniform`` in the bounds, or ``normal`` around their centre, two deviations to each bound."""
    low, high = bounds
    if init == "uniform":
        return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)
    drawn = torch.randn(shape, generator=generator, device=generator.device)
    return (low + high) / 2 + (high - low) / 4 * drawn


def claimed_labels(
    victims: Sequence[Victim],
    gradients: Sequence[Tensor],
    size: int,
    facts: PublicFacts,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Labels of ``size`` examples of each victim, ``(v, size)`` int64, read from their gradients ``(p,)``.

    Raises:
        NotApplicable: the model does not end in a linear layer.
    """
    shape, like = facts.info.input_shape, facts.initial
    inputs = start((PROBES, *shape), "uniform", facts.info.bounds or (0.0, 1.0), generator=generator).to(like)
    rows = [
        recover(
            facts.model,
            victim.model,
            gradient,
            head(facts.model, victim.model, shape),
            examples=victim.examples,
            wanted=size,
            inputs=inputs,
        )
        for victim, gradient in zip(victims, gradients, strict=True)
    ]
    return torch.stack(rows).to(like.device)


@dataclass(frozen=True, kw_only=True)
class Inversion(Attack):
    """Reads training inputs out of the updates with the fewest examples behind them.

    An aggregate is attacked as one update of all the cohort's examples, of which at most ``max_examples`` are
    reconstructed.
    """

    family: ClassVar[str] = "gradient inversion"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = INVERSION
    wants: ClassVar[tuple[Topic, ...]] = WANTS
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "reconstruction"
    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {"clipping", "homomorphic encryption", "robust aggregation", "anomaly detection"}
    )

    targets: Annotated[int, Field(ge=1, description="Updates attacked, those with the fewest examples first")] = 8
    max_examples: Annotated[int, Field(ge=1, description="Inputs reconstructed per update, at most")] = 4
    first_rounds: Annotated[int, Field(ge=1, description="Rounds that are attacked, counted from the first")] = 3

    def rounds(self, total: int) -> range:
        """The first rounds."""
        return range(min(self.first_rounds, total))

    def wanted(self, victim: Victim) -> int:
        """Inputs that are reconstructed from one update."""
        return min(victim.examples, self.max_examples)

    def collect(
        self, victims: tuple[Victim, ...], facts: PublicFacts, *, generator: torch.Generator
    ) -> Reconstructions:
        """Attack victims with equally many inputs to reconstruct together, and gather the evidence."""
        groups: dict[int, list[Victim]] = {}
        for victim in victims:
            groups.setdefault(self.wanted(victim), []).append(victim)
        sources: list[tuple[int, str]] = []
        inputs: list[Tensor] = []
        labels: list[Tensor] = []
        confidence: list[Tensor] = []
        for size, group in sorted(groups.items()):
            found, claimed, match = self.attack(tuple(group), size, facts, generator=generator)
            sources.extend(victim.source for victim in group for _ in range(size))
            inputs.append(found.flatten(0, 1))
            if claimed is not None:
                labels.append(claimed.flatten(0, 1))
            confidence.append(match.reshape(len(group), -1).expand(-1, size).flatten())
        claims = torch.cat(labels) if len(labels) == len(groups) else None
        return Reconstructions(
            sources=tuple(sources),
            inputs=torch.cat(inputs).detach(),
            labels=claims,
            confidence=torch.cat(confidence).detach(),
        )

    @abstractmethod
    def attack(
        self, victims: tuple[Victim, ...], size: int, facts: PublicFacts, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Reconstruct ``size`` inputs of each of ``v`` victims.

        Returns:
            Inputs ``(v, size, *input_shape)``, claimed labels ``(v, size)`` if any, and confidence ``(v,)``
            or ``(v, size)``.
        """
