"""Client-level membership: whether the data set of a whole client took part in the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.membership import confidences
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import ParticipationScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .base import FAMILY, RELATED, SHADOWED
from .references import draw


@dataclass(frozen=True, kw_only=True)
class ClientMembership(Attack):
    """Average over a client's examples how much better the published model fits them than reference models do.

    The user inference of Kandpal et al. on the logit scale: one example says little about a client, the mean over all
    its examples much more. The reference is what a model would say that never saw the client: federations by the
    public algorithm on public examples (the paper has the model before fine-tuning, which here knows nothing), or
    with ``references: 0`` the initial model.
    """

    name: ClassVar[str] = "client-membership"
    summary: ClassVar[str] = "Decides from the published model whether a client's whole data set was trained on"
    family: ClassVar[str] = FAMILY
    paper: ClassVar[Paper | None] = Paper(
        title="User Inference Attacks on Large Language Models",
        authors="Kandpal, Pillutla, Oprea, Kairouz, Choquette-Choo, Xu",
        venue="EMNLP 2024",
        where="the mean likelihood-ratio statistic over a user's samples",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = RELATED
    cost: ClassVar[str] = "`references` whole federations, shared with other attacks, and a forward pass per example"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Somebody who has the published model and a company's data finds out whether the company took part",
        position="outsider",
        knowledge=frozenset({Knowledge.CLIENT_CANDIDATES, Knowledge.AUXILIARY_DATA, Knowledge.LOCAL_TRAINING}),
        capabilities=frozenset({Capability.QUERY_ACCESS}),
        stage=Stage.DEPLOYMENT,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "participation"
    adaptive_to: ClassVar[frozenset[str]] = SHADOWED

    references: Annotated[
        int, Field(ge=0, description="federations trained on public examples; 0 takes the initial model instead")
    ] = 4
    examples: Annotated[
        int, Field(ge=0, description="size of a reference's training set; 0 for half of the public examples")
    ] = 0

    def rounds(self, total: int) -> tuple[int, ...]:
        """The last round: what is published."""
        return (total - 1,)

    def knows(self) -> frozenset[Knowledge]:
        """With the initial model as the reference, no public examples and no algorithm."""
        return self.threat.knowledge if self.references else frozenset({Knowledge.CLIENT_CANDIDATES})

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> ParticipationScores:
        """See `Attack.run`; draws nothing of its own, so that shadows can be shared.

        Raises:
            NotApplicable: too few public examples.
        """
        models = facts.initial.unsqueeze(0)
        if self.references:
            public = facts.auxiliary
            _, rows = draw(0, len(public), shadows=self.references, online=False, examples=self.examples)
            if int(rows.sum(1).min()) < facts.population:
                raise NotApplicable("there are fewer public examples than clients to train reference federations on")
            models = facts.federate([public.take(row.nonzero().flatten()) for row in rows], 0)
        released = view.of(Topic.RELEASE)[-1].values
        sets = facts.client_candidates
        return ParticipationScores(scores=torch.stack([lead(facts.model, released, models, one) for one in sets]))


def lead(model: FlatModel, released: Tensor, references: Tensor, examples: Examples) -> Tensor:
    """Mean over examples of the confidence of ``released (d,)`` minus that of ``references (s, d)`` on average."""
    known = torch.stack([confidences(model, reference, examples) for reference in references])
    return (confidences(model, released, examples) - known.mean(0)).mean()
