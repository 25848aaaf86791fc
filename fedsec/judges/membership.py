"""How well members are told from examples of the same population that were never trained on."""

from __future__ import annotations

from typing import ClassVar

import torch

from fedsec.judges.base import Judge, Judgement, Measurement, Truth
from fedsec.membership import loss_scores
from fedsec.protocol.evidence import Evidence, MembershipScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.intervals import roc

RATES = (0.01, 0.001)
"""False positive rates at which members are counted: an accusation must seldom be wrong to be worth making."""


class MembershipJudge(Judge):
    """The floor is the same score on the initial model, which has seen nobody's data."""

    name: ClassVar[str] = "membership"
    summary: ClassVar[str] = (
        "Area under the ROC curve of member against non-member; full success is 1, the floor is the loss on the "
        "untrained model and at least one half"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: it does not have one score per candidate.
            NotApplicable: there is no membership challenge, or one side of it is empty.
        """
        if not isinstance(evidence, MembershipScores):
            raise TypeError(f"the judge membership measures membership scores, not {type(evidence).__name__}")
        if truth.members is None or truth.candidates is None:
            raise NotApplicable("this federation keeps no never-trained examples to tell members from")
        members, scores = truth.members.bool(), evidence.scores
        if scores.shape != members.shape:
            raise ValueError(f"expected {len(members)} scores, one per candidate, found shape {tuple(scores.shape)}")
        outside = int((~members).sum())
        if not outside or outside == len(members):
            raise NotApplicable("the membership challenge has only one kind of candidate")
        untrained = loss_scores(truth.model, truth.initial, truth.candidates).to(scores.device)
        area = Measurement(
            name="auc",
            statistic="auc",
            units=scores,
            truths=members,
            floor_units=untrained,
            floor=0.5,
            headline=True,
            unit="area",
            description="Probability that a member scores higher than a non-member.",
        )
        rates = tuple(
            Measurement(
                name=f"tpr@{rate:g}",
                statistic=f"tpr@{rate:g}",
                units=scores,
                truths=members,
                floor_units=untrained,
                floor=rate,
                description=f"Share of the members that are found while at most {rate:.1%} of non-members are accused.",
            )
            for rate in RATES
        )
        false, true = roc(scores.cpu().numpy(), members.cpu().numpy())
        notes = tuple(
            f"The non-members are too few to resolve a false positive rate of {rate:.1%}: tpr@{rate:g} allows no "
            "false positive at all."
            for rate in RATES
            if rate * outside < 1
        )
        return Judgement(
            measurements=(area, *rates),
            exhibits={"roc/fpr": torch.from_numpy(false), "roc/tpr": torch.from_numpy(true)},
            notes=notes,
        )
