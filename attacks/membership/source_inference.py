"""Source inference: which client holds an example that is known to have been trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec.membership import loss_scores
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import OwnerScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .base import FAMILY, RELATED, by_round, per_client, spread


@dataclass(frozen=True, kw_only=True)
class SourceInference(Attack):
    """Name the client whose own model (the global one plus its update) has the smallest loss on the example.

    With Bayesian reasoning that client is the likeliest source (their theorem 1). The paper looks at the last round;
    losses are averaged here over the rounds in which a client is seen, because clients that are sampled seldom are
    not all in one round. In rounds with several clients each loss is taken relative to their mean, or else clients
    that were seen late, when losses are small, would own everything.
    """

    name: ClassVar[str] = "source-inference"
    summary: ClassVar[str] = "Names the client that an example is from by whose own model fits it best"
    family: ClassVar[str] = FAMILY
    paper: ClassVar[Paper | None] = Paper(
        title="Source Inference Attacks in Federated Learning",
        authors="Hu, Salcic, Sun, Dobbie, Zhang",
        venue="ICDM 2021",
        where="theorem 1 and algorithm 1 (FedSGD and FedAvg)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = RELATED
    cost: ClassVar[str] = "one forward pass per candidate, client and round"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="The server finds out which participant a record that was trained on belongs to",
        position="server",
        knowledge=frozenset({Knowledge.CANDIDATES}),
        capabilities=frozenset({Capability.OBSERVE_UPDATES}),
        stage=Stage.TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.UPLOAD,)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    judge: ClassVar[str] = "source"

    rounds_used: Annotated[
        int, Field(ge=1, description="rounds attacked, spaced evenly over the training, the last among them")
    ] = 3

    def rounds(self, total: int) -> tuple[int, ...]:
        """Evenly spaced rounds."""
        return spread(total, self.rounds_used)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> OwnerScores:
        """See `Attack.run`; draws nothing.

        Raises:
            NotApplicable: no model of an attacked round can be read.
        """
        rounds = []
        for model, events in by_round(view, facts, Topic.UPLOAD):
            fits = torch.stack(
                [
                    loss_scores(facts.model, model + event.values.to(model), facts.candidates).clamp_min(-1e4)
                    for event in events
                ]
            )
            rounds.append((events, fits - fits.mean(0)))
        return per_client(rounds)
