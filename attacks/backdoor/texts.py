"""What the backdoors share of their descriptions: threat models, taxonomy entries, parameters, refusals."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedsec.data.examples import DatasetInfo
from fedsec.errors import ConfigurationError, Problem
from fedsec.threat import Capability, Stage, Taxonomy, ThreatModel

NIST, ATLAS, OWASP = "nist-ai-100-2e2025", "mitre-atlas-5.6", "owasp-ml-2023"

Fraction = Annotated[float, Field(gt=0.0, lt=1.0, description="Share of the population's clients that it controls")]
Target = Annotated[int, Field(ge=0, description="Code of the class that the backdoor shall give")]
Ratio = Annotated[
    float, Field(ge=0.0, le=1.0, description="Share of a controlled client's examples that it poisons; 0: none")
]
HonestClients = Annotated[
    bool,
    Field(
        description="Whether the clients are honest and only their data were poisoned, so that they run the "
        "stages that defenses ask of clients"
    ),
]

DATA_BACKDOOR = (
    Taxonomy(NIST, "NISTAML.023", "Backdoor Poisoning", "exact"),
    Taxonomy(ATLAS, "AML.T0020", "Poison Training Data", "exact"),
    Taxonomy(ATLAS, "AML.T0043.004", "Insert Backdoor Trigger", "exact"),
    Taxonomy(OWASP, "ML02", "Data Poisoning Attack", "exact"),
)
NATURAL_BACKDOOR = (
    Taxonomy(NIST, "NISTAML.023", "Backdoor Poisoning", "exact"),
    Taxonomy(ATLAS, "AML.T0020", "Poison Training Data", "exact"),
    Taxonomy(OWASP, "ML02", "Data Poisoning Attack", "exact"),
)
CLEAN_LABEL_BACKDOOR = (
    Taxonomy(NIST, "NISTAML.021", "Clean-label Backdoor", "exact"),
    Taxonomy(ATLAS, "AML.T0020", "Poison Training Data", "exact"),
    Taxonomy(ATLAS, "AML.T0043.004", "Insert Backdoor Trigger", "exact"),
    Taxonomy(OWASP, "ML02", "Data Poisoning Attack", "exact"),
)
MODEL_BACKDOOR = (
    Taxonomy(NIST, "NISTAML.026", "Model Poisoning", "exact"),
    Taxonomy(NIST, "NISTAML.023", "Backdoor Poisoning", "exact"),
    Taxonomy(ATLAS, "AML.T0018.000", "Poison AI Model", "exact"),
    Taxonomy(OWASP, "ML10", "Model Poisoning", "exact"),
)


def data_threat(story: str) -> ThreatModel:
    """An adversary that chooses the training data of the clients that it controls, and marks inputs at deployment."""
    return ThreatModel(
        story=story,
        position="client",
        knowledge=frozenset(),
        capabilities=frozenset({Capability.TRAINING_DATA_CONTROL, Capability.TESTING_DATA_CONTROL}),
        stage=Stage.TRAINING,
    )


def natural_threat(story: str) -> ThreatModel:
    """An adversary that relabels inputs as they occur: nothing has to be changed at deployment."""
    return ThreatModel(
        story=story,
        position="client",
        knowledge=frozenset(),
        capabilities=frozenset({Capability.TRAINING_DATA_CONTROL}),
        stage=Stage.TRAINING,
    )


def model_threat(story: str) -> ThreatModel:
    """An adversary that trains as it likes and chooses what its clients send.

    It reads nothing but the global models that its own clients are sent.
    """
    return ThreatModel(
        story=story,
        position="client",
        knowledge=frozenset(),
        capabilities=frozenset(
            {Capability.TRAINING_DATA_CONTROL, Capability.MODEL_CONTROL, Capability.TESTING_DATA_CONTROL}
        ),
        stage=Stage.TRAINING,
    )


def refusal(name: str, found: str, expected: str, hint: str = "") -> ConfigurationError:
    """An attack cannot be made on this dataset."""
    return ConfigurationError([Problem(path=name, found=found, expected=expected, hint=hint)])


def check_class(name: str, field: str, code: int, info: DatasetInfo) -> None:
    """That a class is one of the dataset's.

    Raises:
        ConfigurationError: not a classification, or it has no such class.
    """
    if info.task != "classification":
        raise refusal(name, f"the {info.task} {info.name}", "a backdoor towards a class needs classes")
    if code >= len(info.classes):
        raise refusal(f"{name}.{field}", str(code), f"{info.name} has classes 0 to {len(info.classes) - 1}")


def image_size(name: str, info: DatasetInfo) -> tuple[int, int]:
    """Height and width of the inputs.

    Raises:
        ConfigurationError: they are no images.
    """
    if len(info.input_shape) != 3 or info.bounds is None:
        raise refusal(
            name,
            f"inputs of {info.name} of shape {tuple(info.input_shape)}",
            "a trigger is a mark on an image (channels, height, width)",
            "Use semantic-backdoor, whose trigger is a property of the data.",
        )
    return info.input_shape[1], info.input_shape[2]
