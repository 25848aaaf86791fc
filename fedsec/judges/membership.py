"""How well members are told from examples of the same population that were never trained on."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedsec.judges.base import Exposure, Judge, Judgement, Measurement, Truth
from fedsec.membership import loss_scores
from fedsec.protocol.evidence import Evidence, MembershipScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.intervals import roc

RATES = (0.01, 0.001)
"""False positive rates at which members are counted: an accusation must seldom be wrong to be worth making."""

SHOWN = 5
"""Most exposed examples that are named, and most exposed clients."""


class MembershipJudge(Judge):
    """The floor is the same score on the initial model, which has seen nobody's data.

    True positive rates are read off the step ROC (the last threshold whose false positive rate is at most the one
    allowed) and get exact intervals; the notes say what the non-members resolve.
    """

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
        owners = truth.owners if truth.owners is not None else torch.full((len(members),), -1)
        return Judgement(
            measurements=(area, *rates),
            exhibits={"roc/fpr": torch.from_numpy(false), "roc/tpr": torch.from_numpy(true)},
            notes=(resolved(outside), *_unresolved(outside)),
            exposed=most_exposed(scores.cpu(), members.cpu(), owners.cpu()),
        )


def resolved(outside: int) -> str:
    """What a number of non-members resolves."""
    return f"{outside} non-members: the smallest false positive rate above 0 that they resolve is {1 / outside:.2g}."


def _unresolved(outside: int) -> tuple[str, ...]:
    return tuple(
        f"The non-members are too few to resolve a false positive rate of {rate:.1%}: tpr@{rate:g} allows no "
        "false positive at all."
        for rate in RATES
        if rate * outside < 1
    )


def most_exposed(scores: Tensor, members: Tensor, owners: Tensor) -> tuple[Exposure, ...]:
    """The members with the fewest non-members above them, and the clients with the largest share of such members.

    Only members that are found at a false positive rate of at most the first of `RATES` are named, and clients that
    hold one of them; where nobody stands out, nobody is named. Names are numbers of the challenge, never data.

    Args:
        scores: ``(m,)`` of the candidates.
        members: ``(m,)`` bool.
        owners: ``(m,)`` client of each candidate, -1 if none or unknown.
    """
    values, positive = scores.double().numpy(), members.numpy()
    below = np.sort(values[~positive])
    # Non-members that score at least as high as each candidate.
    ahead = len(below) - np.searchsorted(below, values, side="left")
    found = positive & (ahead <= RATES[0] * len(below))
    best = sorted(np.flatnonzero(found).tolist(), key=lambda row: (ahead[row], -values[row], row))[:SHOWN]
    examples = [
        Exposure(
            unit=f"candidate {row}" + (f" of client:{int(owners[row])}" if owners[row] >= 0 else ""),
            score=float(1 - ahead[row] / len(below)),
            text=f"scores above {len(below) - ahead[row]} of {len(below)} non-members",
        )
        for row in best
    ]
    clients = []
    for client in torch.unique(owners[members & (owners >= 0)]).tolist():
        mine = positive & (owners.numpy() == client)
        caught, all_of_them = int((mine & found).sum()), int(mine.sum())
        if caught:
            text = f"{caught} of its {all_of_them} candidates found at {RATES[0]:.0%} false positives"
            clients.append(Exposure(unit=f"client:{client}", score=caught / all_of_them, text=text))
    return (*examples, *sorted(clients, key=lambda one: -one.score)[:SHOWN])
