"""What the poisoning attacks share of their descriptions: threat models and taxonomy entries."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedsec.threat import Capability, Knowledge, Stage, Taxonomy, ThreatModel

NIST, ATLAS, OWASP = "nist-ai-100-2e2025", "mitre-atlas-5.6", "owasp-ml-2023"

Fraction = Annotated[float, Field(gt=0.0, lt=1.0, description="Share of the population's clients that it controls")]
Omniscient = Annotated[
    bool,
    Field(
        description="Whether it reads every honest update of the round (the papers' strongest adversary) instead "
        "of estimating their statistics from its own clients' honestly trained updates"
    ),
]

DATA_POISONING = (
    Taxonomy(NIST, "NISTAML.013", "Data Poisoning", "exact"),
    Taxonomy(ATLAS, "AML.T0020", "Poison Training Data", "exact"),
    Taxonomy(OWASP, "ML02", "Data Poisoning Attack", "exact"),
)
TARGETED_POISONING = (
    Taxonomy(NIST, "NISTAML.024", "Targeted Poisoning", "exact"),
    Taxonomy(ATLAS, "AML.T0020", "Poison Training Data", "exact"),
    Taxonomy(OWASP, "ML02", "Data Poisoning Attack", "exact"),
)
MODEL_POISONING = (
    Taxonomy(NIST, "NISTAML.011", "Model Poisoning", "exact"),
    Taxonomy(ATLAS, "AML.T0018.000", "Poison AI Model", "exact"),
    Taxonomy(ATLAS, "AML.T0031", "Erode AI Model Integrity", "partial"),
    Taxonomy(OWASP, "ML10", "Model Poisoning", "exact"),
)


def data_threat(story: str) -> ThreatModel:
    """An adversary that relabels the training data of the clients that it controls."""
    return ThreatModel(
        story=story,
        position="client",
        knowledge=frozenset(),
        capabilities=frozenset({Capability.TRAINING_DATA_CONTROL}),
        stage=Stage.TRAINING,
    )


def model_threat(story: str, *, may_be_omniscient: bool) -> ThreatModel:
    """An adversary that chooses the updates of the clients that it controls.

    Honest updates are declared where an attack may use them; it is given them only if its parameter
    ``omniscient`` is true.
    """
    return ThreatModel(
        story=story,
        position="client",
        knowledge=frozenset({Knowledge.HONEST_UPDATES} if may_be_omniscient else ()),
        capabilities=frozenset({Capability.MODEL_CONTROL}),
        stage=Stage.TRAINING,
    )
