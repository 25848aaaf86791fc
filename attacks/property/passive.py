"""Passive property inference: whether the data behind an update has a property that the task is not about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import PropertyScores, SeveralProperties
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .reading import ShadowReader


@dataclass(frozen=True, kw_only=True)
class PassivePropertyInference(ShadowReader, Attack):
    """Classify real updates by updates that were simulated on public examples with and without the property.

    One classifier per round, trained on the model of that round alone: no later round is used. The simulation is that
    of an honest client behind the public stack of client-side defenses, with noise of the adversary's own. In a
    federation with one local step (FedSGD) the updates are those of single batches, as in the paper; else of whole
    local trainings. An aggregate is read as the mean over a cohort, most of whose members have the property or have
    not. Departures from Melis et al.: signed features and a linear classifier by default (``features: melis`` and
    ``classifier: forest`` are theirs), shadow shards of one purity, and shadow data with equal classes on both sides,
    so that a property cannot be read off a label.
    """

    name: ClassVar[str] = "property-inference"
    summary: ClassVar[str] = (
        "Reads from an update whether most of the data behind it has a property unrelated to the task"
    )
    family: ClassVar[str] = "property inference"
    paper: ClassVar[Paper | None] = Paper(
        title="Exploiting Unintended Feature Leakage in Collaborative Learning",
        authors="Melis, Song, De Cristofaro, Shmatikov",
        venue="IEEE S&P 2019",
        where="section 4.3 and algorithm 3 (passive, batch property classifier)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "NISTAML.034", "Property Inference", "exact"),
        Taxonomy("mitre-atlas-5.6", "AML.T0024.000", "Infer Training Data Membership", "partial"),
        Taxonomy("owasp-ml-2023", "", "", "none"),
    )
    cost: ClassVar[str] = "shadow_updates local trainings and two small classifiers per round"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="The server learns something about a participant's data that the model was never meant to learn",
        position="server",
        knowledge=frozenset({Knowledge.AUXILIARY_DATA, Knowledge.LOCAL_TRAINING, Knowledge.COUNTS}),
        capabilities=frozenset({Capability.OBSERVE_UPDATES}),
        stage=Stage.TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.UPLOAD, Topic.AGGREGATE)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "property"
    adaptive_to: ClassVar[frozenset[str]] = frozenset(
        {
            "clipping",
            "compression",
            "differential privacy",
            "adversarial training",
            "robust aggregation",
            "anomaly detection",
        }
    )

    first_round: Annotated[int, Field(ge=0, description="first round attacked, counted from 0")] = 0
    rounds_used: Annotated[
        int, Field(ge=1, description="consecutive rounds attacked; take many where only aggregates can be read")
    ] = 3

    def rounds(self, total: int) -> range:
        """The attacked rounds, moved forward if the training is too short for them."""
        first = max(0, min(self.first_round, total - self.rounds_used))
        return range(first, min(total, first + self.rounds_used))

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> PropertyScores | SeveralProperties:
        """See `Attack.run`.

        Raises:
            NotApplicable: there is no such property, the public examples have too little of either kind, or no
                model of an attacked round can be read.
        """
        pools = self.pools(facts, facts.auxiliary)
        topic = Topic.UPLOAD if view.of(Topic.UPLOAD) else Topic.AGGREGATE
        models = {0: facts.initial} | {event.round: event.values for event in view.of(Topic.BROADCAST)}
        seen = view.of(topic)
        merged = max(1, facts.cohort) if topic == Topic.AGGREGATE else 1
        if topic == Topic.AGGREGATE:
            models = followed(models, {event.round: event.values for event in seen})
        return self.read(seen, models, pools, facts, merged=merged, generator=generator)


def followed(models: Mapping[int, Tensor], aggregates: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The models that were sent, and those that are known models plus their round's aggregate.

    Who holds the key of encrypted sums reads them in rounds too in which nobody sent it the model. Plain averaging is
    assumed; where a server does more, such a model is only near the true one.
    """
    known = dict(models)
    for number in sorted(aggregates):
        if number in known and number + 1 not in known:
            known[number + 1] = known[number] + aggregates[number].to(known[number])
    return known


@dataclass(frozen=True, kw_only=True)
class AggregatePropertyInference(PassivePropertyInference):
    """The same from aggregates alone: what is left to read behind secure sums, or for a client.

    The number of merged updates is the expected cohort. An aggregate has the property if most of the data behind it
    have; the more clients it merges, the less one of them shows.
    """

    name: ClassVar[str] = "property-inference-aggregate"
    summary: ClassVar[str] = (
        "Reads from the aggregate of a round whether most of the data behind it has a property unrelated to the task"
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Who sees only sums over the cohort learns something about the participants of each round",
        position="server",
        knowledge=frozenset({Knowledge.AUXILIARY_DATA, Knowledge.LOCAL_TRAINING, Knowledge.COUNTS}),
        capabilities=frozenset({Capability.OBSERVE_UPDATES}),
        stage=Stage.TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.AGGREGATE,)
    rounds_used: Annotated[int, Field(ge=1, description="consecutive rounds attacked, each one observation")] = 20
