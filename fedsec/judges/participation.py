"""How well clients that took part are told from data sets of the same kind that did not."""

from __future__ import annotations

from typing import ClassVar

import torch

from fedsec.judges.base import Exposure, Judge, Judgement, Measurement, Truth
from fedsec.judges.membership import resolved
from fedsec.protocol.evidence import Evidence, ParticipationScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.intervals import roc

RATE = 0.1
"""False positive rate at which participants are counted; there are seldom enough clients for less."""

SHOWN = 10
"""Data sets that are named as most exposed."""


class ParticipationJudge(Judge):
    """The floor is one half: data sets that did not take part are of the same population, alike in size and labels."""

    name: ClassVar[str] = "participation"
    summary: ClassVar[str] = (
        "Area under the ROC curve of clients that took part against made-up ones; full success is 1, the floor 0.5"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: it does not have one score per data set.
            NotApplicable: there are no data sets in question, or only one kind of them.
        """
        if not isinstance(evidence, ParticipationScores):
            raise TypeError(f"the judge participation measures participation scores, not {type(evidence).__name__}")
        if truth.participants is None:
            raise NotApplicable("this federation keeps no never-trained examples to make up other clients from")
        took_part, scores = truth.participants.bool(), evidence.scores
        if scores.shape != took_part.shape:
            raise ValueError(f"expected {len(took_part)} scores, one per data set, found shape {tuple(scores.shape)}")
        outside = int((~took_part).sum())
        if not outside or outside == len(took_part):
            raise NotApplicable("the data sets in question are all of one kind")
        false, true = roc(scores.cpu().numpy(), took_part.cpu().numpy())
        return Judgement(
            measurements=(
                Measurement(
                    name="auc",
                    statistic="auc",
                    units=scores,
                    truths=took_part,
                    floor=0.5,
                    headline=True,
                    unit="area",
                    description="Probability that a client that took part scores higher than one that did not.",
                ),
                Measurement(
                    name=f"tpr@{RATE:g}",
                    statistic=f"tpr@{RATE:g}",
                    units=scores,
                    truths=took_part,
                    floor=RATE,
                    description=f"Share of the clients that are found while at most {RATE:.0%} of others are accused.",
                ),
            ),
            exhibits={"roc/fpr": torch.from_numpy(false), "roc/tpr": torch.from_numpy(true)},
            notes=(resolved(outside, "data sets that did not take part"),),
            exposed=_exposed(scores.double().cpu(), took_part.cpu()),
        )


def _exposed(scores: torch.Tensor, took_part: torch.Tensor) -> tuple[Exposure, ...]:
    others = scores[~took_part]
    rows = took_part.nonzero().flatten()
    best: list[int] = rows[(-scores[rows]).argsort(stable=True)][:SHOWN].tolist()
    beaten = [int((others < scores[row]).sum()) for row in best]
    return tuple(
        Exposure(
            unit=f"data set {row}",
            score=count / len(others),
            text=f"scores above {count} of {len(others)} data sets that did not take part",
        )
        for row, count in zip(best, beaten, strict=True)
        if count
    )
