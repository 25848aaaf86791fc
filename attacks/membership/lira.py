"""LiRA: membership by a likelihood ratio per example, against models trained with and without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedsec.membership import confidences
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import MembershipScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .base import FAMILY, MEMBERSHIP, SHADOWED, WITH_SHADOWS
from .likelihood import likelihood_ratio, outside_score
from .references import references


@dataclass(frozen=True, kw_only=True)
class LikelihoodRatio(Attack):
    """Ask which answers as the published model does: models trained on the example, or models trained without it.

    Shadow federations run the public algorithm (stack, noise of their own, the public initial model) on random
    halves of the candidates and of the public examples, so each candidate is in half of them; the offline mode trains
    on public examples alone, before it knows any candidate. Simplifications: one query per example, no augmented
    ones; one shot per candidate, as it is the real federation that is attacked and not each shadow in turn, so there is
    none of the leave-half bias of evaluations that reuse their shadows as targets.

    The members of the challenge are a part of the federation's training set; how well shadows of another size stand
    in for it depends on `examples`.
    """

    name: ClassVar[str] = "lira"
    summary: ClassVar[str] = (
        "Compares the published model's confidence with that of shadow federations with and without the example"
    )
    family: ClassVar[str] = FAMILY
    paper: ClassVar[Paper | None] = Paper(
        title="Membership Inference Attacks From First Principles",
        authors="Carlini, Chien, Nasr, Song, Terzis, Tramèr",
        venue="IEEE S&P 2022",
        where="section IV, algorithm 1, online and offline, with one query per example",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MEMBERSHIP
    cost: ClassVar[str] = "`shadows` whole federations, shared with other attacks of the audit"
    threat: ClassVar[ThreatModel] = WITH_SHADOWS
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "membership"
    adaptive_to: ClassVar[frozenset[str]] = SHADOWED

    shadows: Annotated[
        int,
        Field(ge=4, multiple_of=2, description="shadow federations; the paper takes 256, of which 16 show the most"),
    ] = 16
    mode: Annotated[
        Literal["online", "offline"],
        Field(description="online: shadows with and without each candidate; offline: shadows on public examples alone"),
    ] = "online"
    variance: Annotated[
        Literal["fixed", "per-sample"],
        Field(description="fixed: one variance for all examples, better below some 64 shadows; per-sample: its own"),
    ] = "fixed"
    examples: Annotated[
        int, Field(ge=0, description="size of a shadow's training set; 0 for half of candidates and public examples")
    ] = 0

    def rounds(self, total: int) -> tuple[int, ...]:
        """The last round: what is published."""
        return (total - 1,)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> MembershipScores:
        """See `Attack.run`; draws nothing of its own, so that shadows can be shared.

        Raises:
            NotApplicable: too few public examples.
        """
        online, per_sample = self.mode == "online", self.variance == "per-sample"
        shadow = references(facts, shadows=self.shadows, online=online, examples=self.examples)
        released = view.of(Topic.RELEASE)[-1].values
        target = confidences(facts.model, released, facts.candidates)
        known = torch.stack([confidences(facts.model, model, facts.candidates) for model in shadow.models])
        if online:
            return MembershipScores(scores=likelihood_ratio(target, known, shadow.candidates, per_sample=per_sample))
        return MembershipScores(scores=outside_score(target, known, per_sample=per_sample))
