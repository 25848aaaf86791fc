"""Membership from updates: an update points where the gradients of the examples behind it point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import MembershipScores, OwnerScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .base import FAMILY, MEMBERSHIP, by_round, per_client, spread
from .signals import gradient_cosines


@dataclass(frozen=True, kw_only=True)
class GradientCosine(Attack):
    """Score each candidate for each client by the cosine of its gradient with the client's updates.

    In an overparameterised model gradients of different examples are nearly orthogonal, so an update has a positive
    cosine with the examples behind it and about none with others. Cosines are averaged over the rounds in which a
    client is seen. Where only the aggregate can be read it stands for all clients together, and candidates are scored
    for the federation as a whole.
    """

    name: ClassVar[str] = "gradient-cosine"
    summary: ClassVar[str] = "Calls those examples members whose gradients point where a client's updates point"
    family: ClassVar[str] = FAMILY
    paper: ClassVar[Paper | None] = Paper(
        title="Effective Passive Membership Inference Attacks in Federated Learning Against Overparameterized Models",
        authors="Li, Li, Ribeiro",
        venue="ICLR 2023",
        where="the cosine attack",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MEMBERSHIP
    cost: ClassVar[str] = "one gradient per candidate and attacked round"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="The server finds out from a participant's updates whether a person's record is among its data",
        position="server",
        knowledge=frozenset({Knowledge.CANDIDATES}),
        capabilities=frozenset({Capability.OBSERVE_UPDATES}),
        stage=Stage.TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.UPLOAD, Topic.AGGREGATE)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "membership"
    adaptive_to: ClassVar[frozenset[str]] = frozenset({"clipping"})

    rounds_used: Annotated[
        int, Field(ge=1, description="rounds attacked, spaced evenly over the training, the last among them")
    ] = 5

    def rounds(self, total: int) -> tuple[int, ...]:
        """Evenly spaced rounds."""
        return spread(total, self.rounds_used)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> MembershipScores | OwnerScores:
        """See `Attack.run`; draws nothing.

        Raises:
            NotApplicable: no model of an attacked round can be read.
        """
        topic = Topic.UPLOAD if view.of(Topic.UPLOAD) else Topic.AGGREGATE
        rounds = []
        for model, events in by_round(view, facts, topic):
            updates = torch.stack([event.values for event in events])
            rounds.append((events, gradient_cosines(facts.model, model, facts.candidates, updates)))
        if topic == Topic.UPLOAD:
            return per_client(rounds)
        return MembershipScores(scores=torch.cat([rows for _, rows in rounds]).mean(0))
