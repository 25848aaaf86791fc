"""Membership from the course of the training: how the fit of an example moved, round by round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.membership import confidences
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import MembershipScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .base import FAMILY, MEMBERSHIP, spread

SHRINK = 5.0
"""Public examples of a class that the mean of all classes counts for."""


def standardised(candidates: Tensor, labels: Tensor, public: Tensor, public_labels: Tensor) -> Tensor:
    """In how many deviations of public examples of its class a candidate's confidence lies above their mean.

    Means of classes with few public examples are drawn to that of all (`SHRINK`); the deviation is one for all
    classes.

    Args:
        candidates: ``(m,)``.
        labels: ``(m,)`` integers.
        public: ``(a,)``.
        public_labels: ``(a,)`` integers.
    """
    overall = public.mean()
    centre = overall.expand(len(candidates)).clone()
    off = public - overall
    for label in torch.unique(public_labels).tolist():
        here = public_labels == label
        mean = (public[here].sum() + SHRINK * overall) / (int(here.sum()) + SHRINK)
        centre[labels == label] = mean
        off[here] = public[here] - mean
    return (candidates - centre) / off.square().mean().sqrt().clamp_min(1e-6)


@dataclass(frozen=True, kw_only=True)
class LossTrajectory(Attack):
    """Follow the confidence in each candidate over the models that participants are sent, and in the published one.

    Public examples that nobody trained on say in each round what confidence an example of the class has by itself; a
    member is ahead of them round after round. What is added up over rounds is that lead. The paper trains a
    classifier on such series of known members; here nobody is known to be a member, so the series is summed.
    """

    name: ClassVar[str] = "loss-trajectory"
    summary: ClassVar[str] = (
        "Follows how well the models of all rounds fit an example, against examples that are public"
    )
    family: ClassVar[str] = FAMILY
    paper: ClassVar[Paper | None] = Paper(
        title="CS-MIA: Membership Inference Attack Based on Prediction Confidence Series in Federated Learning",
        authors="Gu, Bai, Xu",
        venue="Journal of Information Security and Applications 2022",
        where="the confidence series; a sum in place of their classifier",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MEMBERSHIP
    cost: ClassVar[str] = "one forward pass per candidate, public example and round"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="A participant keeps the models that it is sent and finds out whose records others trained on",
        position="client:0",
        knowledge=frozenset({Knowledge.CANDIDATES, Knowledge.AUXILIARY_DATA}),
        capabilities=frozenset({Capability.OBSERVE_UPDATES, Capability.QUERY_ACCESS}),
        stage=Stage.TRAINING,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST,)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "membership"

    rounds_used: Annotated[
        int, Field(ge=1, description="rounds followed, spaced evenly over the training, the last among them")
    ] = 10

    def rounds(self, total: int) -> tuple[int, ...]:
        """Evenly spaced rounds."""
        return spread(total, self.rounds_used)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> MembershipScores:
        """See `Attack.run`; draws nothing."""
        models = [event.values for event in (*view.of(Topic.BROADCAST), *view.of(Topic.RELEASE))]
        classes = facts.model.task == "classification"
        ours, theirs = facts.candidates, facts.auxiliary
        labels = ours.y if classes else torch.zeros(len(ours), dtype=torch.long)
        public_labels = theirs.y if classes else torch.zeros(len(theirs), dtype=torch.long)
        leads = [
            standardised(
                confidences(facts.model, model, ours), labels, confidences(facts.model, model, theirs), public_labels
            )
            for model in models
        ]
        return MembershipScores(scores=torch.stack(leads).mean(0))
