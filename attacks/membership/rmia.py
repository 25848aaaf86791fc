"""RMIA: membership by comparing an example's likelihood ratio with those of population examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedsec.membership import loss_scores
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import MembershipScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .base import FAMILY, MEMBERSHIP, SHADOWED, WITH_SHADOWS
from .likelihood import marginal, pairwise_ratio
from .references import references


@dataclass(frozen=True, kw_only=True)
class RobustMembership(Attack):
    """Score an example by how many population examples its likelihood ratio dominates.

    The ratio is the published model's probability of the true label over the mean probability that reference models
    give it. The line ``a`` that stands in for models with the example in the offline mode is not tuned on the target;
    its default is the authors' for CIFAR-10. Population examples are the public ones; those that were in every
    reference model, or (online) in none, are left out.
    """

    name: ClassVar[str] = "rmia"
    summary: ClassVar[str] = (
        "Counts the public examples that a candidate's likelihood ratio against reference models dominates"
    )
    family: ClassVar[str] = FAMILY
    paper: ClassVar[Paper | None] = Paper(
        title="Low-Cost High-Power Membership Inference Attacks",
        authors="Zarifzadeh, Liu, Shokri",
        venue="ICML 2024",
        where="section 3, and the offline approximation of appendix B.2",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MEMBERSHIP
    cost: ClassVar[str] = "`shadows` whole federations, shared with other attacks of the audit"
    threat: ClassVar[ThreatModel] = WITH_SHADOWS
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "membership"
    adaptive_to: ClassVar[frozenset[str]] = SHADOWED

    shadows: Annotated[int, Field(ge=2, multiple_of=2, description="reference federations")] = 4
    mode: Annotated[
        Literal["offline", "online"],
        Field(description="offline: references on public examples alone; online: with and without each candidate"),
    ] = "offline"
    gamma: Annotated[float, Field(ge=1, description="by what factor a candidate must dominate a public example")] = 1.0
    a: Annotated[
        float, Field(ge=0, le=1, description="offline: probability after training on an example is a p + (1 - a)")
    ] = 0.3
    examples: Annotated[
        int, Field(ge=0, description="size of a reference's training set; 0 for half of what it may use")
    ] = 0

    def rounds(self, total: int) -> tuple[int, ...]:
        """The last round: what is published."""
        return (total - 1,)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> MembershipScores:
        """See `Attack.run`; draws nothing of its own, so that shadows can be shared.

        Raises:
            NotApplicable: the outputs are no probabilities (a regression), or there are too few public examples.
        """
        if facts.model.task == "regression":
            raise NotApplicable("a regression gives no probability of the true value")
        online = self.mode == "online"
        shadow = references(facts, shadows=self.shadows, online=online, examples=self.examples)
        outside = ~shadow.public.all(0)
        usable = outside & shadow.public.any(0) if online else outside
        if not bool(usable.any()):
            raise NotApplicable(
                "every public example was needed to train the reference models; none is left to compare"
            )
        population = facts.auxiliary.take(usable.nonzero().flatten())
        released = view.of(Topic.RELEASE)[-1].values
        ratios = []
        for examples, inside in ((facts.candidates, shadow.candidates), (population, shadow.public[:, usable])):
            known = torch.stack([loss_scores(facts.model, model, examples) for model in shadow.models])
            average = marginal(known, inside, a=None if online else self.a)
            ratios.append(loss_scores(facts.model, released, examples) - average)
        return MembershipScores(scores=pairwise_ratio(ratios[0], ratios[1], gamma=self.gamma))
