"""Who the adversary is: positions, knowledge, capabilities, and the public taxonomies that name them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Knowledge(StrEnum):
    """What an attack assumes to know besides what its position sees. Handed over only if declared.

    The architecture, the stack of defenses with its parameters and the public facts of the task are known
    to every adversary (Kerckhoffs); keys, seeds and noise draws to none.
    """

    LABELS = "labels of the victim's examples"
    BATCH_ORDER = "order of the victim's batches, with each example's label"
    COUNTS = "number of examples behind an update"
    LOCAL_TRAINING = "local learning rate, batch size and epochs"
    OWN_DATA = "its own examples, as a participant"
    AUXILIARY_DATA = "public examples from the population"
    TEST_INPUTS = "inputs at deployment"
    CANDIDATES = "examples whose membership is in question"
    CLIENT_CANDIDATES = "data sets of clients whose participation is in question"
    HONEST_UPDATES = "every honest client's update of the round (omniscient)"
    AGGREGATION_RULE = "the aggregation rule"


ORACLES = frozenset({Knowledge.LABELS, Knowledge.BATCH_ORDER})
"""Private facts that no party but the victim has; a result that rests on them is marked in the report."""


class Capability(StrEnum):
    """What the adversary can do (NIST AI 100-2 E2025, plus the reading of updates, which it has no word for)."""

    OBSERVE_UPDATES = "observe updates"
    QUERY_ACCESS = "query access"
    TRAINING_DATA_CONTROL = "training data control"
    MODEL_CONTROL = "model control"
    TESTING_DATA_CONTROL = "testing data control"
    IDENTITIES = "additional identities"


class Stage(StrEnum):
    """When the adversary acts."""

    TRAINING = "training"
    DEPLOYMENT = "deployment"


@dataclass(frozen=True)
class ThreatModel:
    """The adversary of one attack.

    Attributes:
        story: one sentence that a decision-maker understands.
        position: default coalition, as in ``server``, ``client:0``, ``server+key-holder``, ``outsider``.
        knowledge: what it assumes to know.
        capabilities: what it can do.
        stage: when.
    """

    story: str
    position: str
    knowledge: frozenset[Knowledge]
    capabilities: frozenset[Capability]
    stage: Stage


@dataclass(frozen=True)
class Taxonomy:
    """An identifier in a public taxonomy and how well it fits.

    Attributes:
        framework: ``nist-ai-100-2e2025``, ``mitre-atlas-5.6`` or ``owasp-ml-2023``.
        id: the framework's identifier; empty where it has none.
        name: the framework's own name for it.
        strength: ``exact``, ``partial`` or ``none``.
    """

    framework: str
    id: str
    name: str
    strength: str


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    authors: str
    venue: str
    where: str = ""
    """Section, algorithm or equation that is implemented."""
