"""Membership inference from the loss alone: examples that a model fits well were probably trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedsec.membership import loss_scores
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import MembershipScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel


@dataclass(frozen=True, kw_only=True)
class LossThreshold(Attack):
    """Score each candidate by minus its loss on the published model (Yeom et al. 2018, adversary 1).

    The paper's adversary calls an example a member if its loss is below the average training loss; the scores are
    returned without a threshold, so that the judge reads every false positive rate. One global threshold knows
    nothing of how hard an example is by itself, so it finds few members at low false positive rates even where
    shadow models would; a low result is weak evidence of privacy.
    """

    name: ClassVar[str] = "loss-threshold"
    summary: ClassVar[str] = "Calls those examples members that the published model fits with the smallest loss"
    family: ClassVar[str] = "membership inference"
    paper: ClassVar[Paper | None] = Paper(
        title="Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting",
        authors="Yeom, Giacomelli, Fredrikson, Jha",
        venue="CSF 2018",
        where="section 3.2, adversary 1 (bounded loss) with every threshold",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "NISTAML.033", "Membership Inference", "exact"),
        Taxonomy("mitre-atlas-5.6", "AML.T0024.000", "Infer Training Data Membership", "exact"),
        Taxonomy("owasp-ml-2023", "ML04", "Membership Inference Attack", "exact"),
    )
    cost: ClassVar[str] = "one forward pass per candidate"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Somebody who has the published model and a person's record finds out whether it was trained on",
        position="outsider",
        knowledge=frozenset({Knowledge.CANDIDATES}),
        capabilities=frozenset({Capability.QUERY_ACCESS}),
        stage=Stage.DEPLOYMENT,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "membership"

    def rounds(self, total: int) -> tuple[int, ...]:
        """The last round: what is published."""
        return (total - 1,)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> MembershipScores:
        """See `Attack.run`; draws nothing."""
        released = view.of(Topic.RELEASE)[-1].values
        return MembershipScores(scores=loss_scores(facts.model, released, facts.candidates))
