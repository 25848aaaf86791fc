"""What every malicious server shares: its threat model, the taxonomies, its parameters, and guesses it owes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import MaliciousServer
from fedsec.threat import Capability, Knowledge, Stage, Taxonomy, ThreatModel

from ..inversion.victims import Victim

MALICIOUS = (
    Taxonomy("nist-ai-100-2e2025", "NISTAML.032", "Reconstruction", "partial"),
    Taxonomy("mitre-atlas-5.6", "AML.T0018", "Manipulate AI Model", "partial"),
    Taxonomy("owasp-ml-2023", "ML03", "Model Inversion Attack", "partial"),
)
"""None of the three names a server that sends models made to leak."""


CONTROLS = frozenset({Capability.OBSERVE_UPDATES, Capability.MODEL_CONTROL})


def planting(story: str, *knowledge: Knowledge) -> ThreatModel:
    """The threat model of a server that sends models of its own making and reads what training on them gives."""
    return ThreatModel(story, "server", frozenset(knowledge), CONTROLS, Stage.TRAINING)


@dataclass(frozen=True, kw_only=True)
class Malicious(MaliciousServer):
    """Plants models in the first rounds, with the clients that hold the fewest examples."""

    family: ClassVar[str] = "malicious server"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MALICIOUS
    wants: ClassVar[tuple[Topic, ...]] = (Topic.UPLOAD,)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "reconstruction"

    victims: Annotated[
        int, Field(ge=1, description="Clients that are sent a planted model per round, fewest examples first")
    ] = 8
    first_rounds: Annotated[int, Field(ge=1, description="Rounds that are attacked, counted from the first")] = 1

    def rounds(self, total: int) -> range:
        """The first rounds."""
        return range(min(self.first_rounds, total))


def real_inputs(facts: PublicFacts) -> tuple[float, float]:
    """The bounds of the inputs.

    Raises:
        NotApplicable: they are tokens.
    """
    if facts.info.bounds is None:
        raise NotApplicable("the inputs are tokens; this attack reconstructs real-valued inputs")
    return facts.info.bounds


def gathered(victims: Sequence[Victim], found: Sequence[tuple[Tensor, Tensor]], facts: PublicFacts) -> Reconstructions:
    """What was read of each victim, as evidence; a grey guess of no confidence where nothing was.

    Args:
        victims: ``v`` of them.
        found: for each the inputs ``(k, f)`` in the dataset's units and their confidence ``(k,)``.
        facts: bounds and shape of an input.
    """
    low, high = real_inputs(facts)
    sources: list[tuple[int, str]] = []
    inputs, confidence = [], []
    for victim, (rows, sure) in zip(victims, found, strict=True):
        if not len(rows):
            rows, sure = rows.new_full((1, rows.shape[1]), (low + high) / 2), rows.new_full((1,), -1.0)
        sources += [victim.source] * len(rows)
        inputs.append(rows.nan_to_num(nan=(low + high) / 2).clamp(low, high))
        confidence.append(sure)
    return Reconstructions(
        sources=tuple(sources),
        inputs=torch.cat(inputs).reshape(-1, *facts.info.input_shape),
        labels=None,
        confidence=torch.cat(confidence),
    )
