"""How well members are told from examples of the same population that were never trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedsec.judges.base import Exposure, Judge, Judgement, Measurement, Truth
from fedsec.membership import loss_scores
from fedsec.protocol.evidence import Evidence, MembershipScores, OwnerScores
from fedsec.protocol.outcome import NotApplicable
from fedsec.statistics.intervals import roc

RATES = (0.01, 0.001)
"""False positive rates at which members are counted: an accusation must seldom be wrong to be worth making."""

ASKED = 4
"""Clients that are asked about each non-member, at most: more add answers that depend on each other."""

SHOWN = 5
"""Most exposed examples that are named, and most exposed clients."""


@dataclass(frozen=True)
class Question:
    """What was asked, one unit after the other.

    Attributes:
        scores: ``(u,)``.
        members: ``(u,)`` bool, the answers.
        rows: ``(u,)`` int64, which candidate each unit is about.
        owners: ``(u,)`` int64, the client that holds it, -1 for non-members and where that is unknown.
        notes: what must be said of it.
    """

    scores: Tensor
    members: Tensor
    rows: Tensor
    owners: Tensor
    notes: tuple[str, ...] = ()


class MembershipJudge(Judge):
    """The floor is the same score on the initial model, which has seen nobody's data.

    An attack that scores candidates is asked whether each was trained on. One that scores candidates for each client
    (`OwnerScores`) is asked of each client whether the candidate is in its data: members count at the client that
    holds them and non-members at a few clients drawn at random, so the answers about one candidate depend on each
    other. Members of other clients are no non-members: their owner's update is in the cohort.

    True positive rates are read off the step ROC (the last threshold whose false positive rate is at most the one
    allowed) and get exact intervals; the notes say what the non-members resolve.
    """

    name: ClassVar[str] = "membership"
    summary: ClassVar[str] = (
        "Area under the ROC curve of member against non-member; full success is 1, the floor is the loss on the "
        "untrained model and at least one half"
    )

    metrics: ClassVar[tuple[str, ...]] = ("auc", "tpr@0.01", "tpr@0.001")

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: it does not have one score per candidate (and client).
            NotApplicable: there is no membership challenge, or one side of it is empty.
        """
        if not isinstance(evidence, MembershipScores | OwnerScores):
            raise TypeError(f"the judge membership measures membership scores, not {type(evidence).__name__}")
        if truth.members is None or truth.candidates is None:
            raise NotApplicable("this federation keeps no never-trained examples to tell members from")
        members = truth.members.bool().cpu()
        owners = truth.owners.cpu() if truth.owners is not None else torch.full((len(members),), -1)
        asked = _of_all(evidence, members, owners, truth.generator)
        if not bool(asked.members.any()) or bool(asked.members.all()):
            raise NotApplicable("the membership challenge has only one kind of candidate")
        each = isinstance(evidence, OwnerScores)
        untrained = loss_scores(truth.model, truth.initial, truth.candidates).cpu()[asked.rows]
        where = " with the client that holds it" if each else ""

        def measurement(name: str, floor: float, unit: str, description: str, *, headline: bool = False) -> Measurement:
            return Measurement(
                name=name,
                statistic=name,
                units=asked.scores,
                truths=asked.members,
                clusters=asked.rows if each else None,
                floor_units=untrained,
                floor=floor,
                headline=headline,
                unit=unit,
                description=description,
            )

        area = measurement(
            "auc", 0.5, "area", f"Probability that a member scores higher{where} than a non-member.", headline=True
        )
        rates = tuple(
            measurement(
                f"tpr@{rate:g}",
                rate,
                "share",
                f"Share of the members that are found{where} while at most {rate:.1%} of non-members are accused.",
            )
            for rate in RATES
        )
        false, true = roc(asked.scores.numpy(), asked.members.numpy())
        outside = int((~asked.members).sum())
        return Judgement(
            measurements=(area, *rates),
            exhibits={"roc/fpr": torch.from_numpy(false), "roc/tpr": torch.from_numpy(true)},
            notes=(
                *asked.notes,
                resolved(outside, "pairs of a non-member and a client" if each else "non-members"),
                *_unresolved(outside),
            ),
            exposed=most_exposed(asked.scores, asked.members, asked.owners, asked.rows),
        )


def _of_all(
    evidence: MembershipScores | OwnerScores, members: Tensor, owners: Tensor, generator: torch.Generator
) -> Question:
    """The units of the evidence."""
    count = len(members)
    scores = evidence.scores.detach().cpu()
    if isinstance(evidence, MembershipScores):
        if scores.shape != members.shape:
            raise ValueError(f"expected {count} scores, one per candidate, found shape {tuple(scores.shape)}")
        return Question(scores, members, torch.arange(count), owners)
    if scores.shape != (count, len(evidence.clients)):
        raise ValueError(f"expected scores of shape {(count, len(evidence.clients))}, found {tuple(scores.shape)}")
    question = of_each_client(scores, evidence.clients, members, owners, generator=generator)
    unseen = int(members.sum()) - int(question.members.sum())
    notes = [f"Asked of single clients: members at the one that holds them, non-members at {ASKED} of them at most."]
    if unseen:
        notes.append(f"{unseen} members are left out: several clients hold them, or theirs was not seen.")
    return replace(question, notes=tuple(notes))


def of_each_client(
    scores: Tensor,
    clients: tuple[int, ...],
    members: Tensor,
    owners: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Question:
    """Pairs of a candidate and a client: members with their owner, non-members with everybody or a few.

    Args:
        scores: ``(m, k)``.
        clients: identities of the columns.
        members: ``(m,)`` bool.
        owners: ``(m,)`` int64.
        generator: draws at most `ASKED` clients for each non-member; without it all are asked.
    """
    about = torch.ones(scores.shape, dtype=torch.bool)
    if generator is not None and scores.shape[1] > ASKED:
        drawn = torch.rand(scores.shape, generator=generator).argsort(1)[:, :ASKED]
        about = torch.zeros_like(about).scatter_(1, drawn, True)
    asked = (torch.tensor(clients) == owners.unsqueeze(1)) & members.unsqueeze(1) | ~members.unsqueeze(1) & about
    rows, columns = asked.nonzero(as_tuple=True)
    return Question(scores[rows, columns], members[rows], rows, owners[rows])


def resolved(outside: int, who: str) -> str:
    """What a number of non-members resolves."""
    return f"{outside} {who}: the smallest false positive rate above 0 that they resolve is {1 / outside:.2g}."


def _unresolved(outside: int) -> tuple[str, ...]:
    return tuple(
        f"The non-members are too few to resolve a false positive rate of {rate:.1%}: tpr@{rate:g} allows no "
        "false positive at all."
        for rate in RATES
        if rate * outside < 1
    )


def most_exposed(scores: Tensor, members: Tensor, owners: Tensor, names: Tensor) -> tuple[Exposure, ...]:
    """The members with the fewest non-members above them, and the clients with the largest share of such members.

    Only members that are found at a false positive rate of at most the first of `RATES` are named, and clients that
    hold one of them; where nobody stands out, nobody is named. Names are numbers of the challenge, never data.

    Args:
        scores: ``(u,)``.
        members: ``(u,)`` bool.
        owners: ``(u,)`` client, -1 if none or unknown.
        names: ``(u,)`` number of the candidate.
    """
    values, positive = scores.double().numpy(), members.numpy()
    below = np.sort(values[~positive])
    # Non-members that score at least as high as each candidate.
    ahead = len(below) - np.searchsorted(below, values, side="left")
    found = positive & (ahead <= RATES[0] * len(below))
    best = sorted(np.flatnonzero(found).tolist(), key=lambda row: (ahead[row], -values[row], row))[:SHOWN]
    examples = [
        Exposure(
            unit=f"candidate {int(names[row])}" + (f" of client:{int(owners[row])}" if owners[row] >= 0 else ""),
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
