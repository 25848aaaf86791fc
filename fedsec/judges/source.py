"""How often the client that holds an example is named."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fedsec.judges.base import Exposure, Judge, Judgement, Measurement, Truth
from fedsec.protocol.evidence import Evidence, OwnerScores
from fedsec.protocol.outcome import NotApplicable

SHOWN = 10
"""Clients that are named as most exposed."""


class SourceJudge(Judge):
    """The floor is the best guess without the view: the client that holds the most candidates, named every time.

    Only candidates that exactly one client holds count. A client that the attack has no column for cannot be named,
    so its examples are failures. Equal scores share the credit.
    """

    name: ClassVar[str] = "source"
    summary: ClassVar[str] = (
        "Share of trained-on examples whose owner is named; full success is all of them, the floor is naming the "
        "client with the most examples every time"
    )

    def measure(self, evidence: Evidence, truth: Truth) -> Judgement:
        """See `Judge.measure`.

        Raises:
            TypeError: the evidence is of another kind.
            ValueError: it does not have one row per candidate and one column per client.
            NotApplicable: there is no membership challenge, or no candidate has one owner.
        """
        if not isinstance(evidence, OwnerScores):
            raise TypeError(f"the judge source measures owner scores, not {type(evidence).__name__}")
        if truth.owners is None or truth.candidates is None:
            raise NotApplicable("this federation keeps no candidates whose owner could be asked for")
        expected = (len(truth.owners), len(evidence.clients))
        if tuple(evidence.scores.shape) != expected or not evidence.clients:
            raise ValueError(f"expected scores of shape {expected}, found {tuple(evidence.scores.shape)}")
        rows = (truth.owners >= 0).nonzero().flatten()
        if not len(rows):
            raise NotApplicable("no candidate is held by exactly one client")
        owners = truth.owners[rows]
        right = credit(evidence.scores[rows].cpu(), owners, evidence.clients)
        labels = truth.candidates.y[rows] if truth.info.task == "classification" else torch.zeros(len(rows))
        notes = [f"{len(rows)} examples of {len(torch.unique(owners))} clients."]
        if (informed := _by_label(owners, labels)) > (floor := _largest_share(owners)):
            notes.append(
                f"Who knew how often each client has each class would be right for {informed:.1%} by the label alone "
                f"(the floor is {floor:.1%})."
            )
        missing = int((~torch.isin(owners, torch.tensor(evidence.clients))).sum())
        if missing:
            notes.append(f"The clients of {missing} examples were not seen; these count as failures.")
        return Judgement(
            measurements=(
                Measurement(
                    name="source_accuracy",
                    statistic="mean",
                    units=right,
                    floor=floor,
                    headline=True,
                    description="Share of trained-on examples whose owner is named.",
                ),
            ),
            notes=tuple(notes),
            exposed=_exposed(right, owners),
        )


def credit(scores: Tensor, owners: Tensor, clients: tuple[int, ...]) -> Tensor:
    """1 where the owner alone has the highest score of its row, a share where several have it, else 0: ``(n,)``."""
    values = torch.nan_to_num(scores.double(), nan=torch.finfo(torch.float64).min)
    top = values == values.amax(1, keepdim=True)
    hit = top & (torch.tensor(clients) == owners.unsqueeze(1))
    return hit.any(1).double() / top.sum(1)


def _largest_share(owners: Tensor) -> float:
    return float(torch.unique(owners, return_counts=True)[1].max()) / len(owners)


def _by_label(owners: Tensor, labels: Tensor) -> float:
    """Share of examples with the most frequent owner of their class."""
    right = 0.0
    for label in torch.unique(labels).tolist():
        here = owners[labels == label]
        right += _largest_share(here) * len(here)
    return right / len(owners)


def _exposed(right: Tensor, owners: Tensor) -> tuple[Exposure, ...]:
    clients = []
    for client in torch.unique(owners).tolist():
        mine = right[owners == client]
        text = f"named for {float(mine.sum()):.3g} of {len(mine)} of its candidates"
        clients.append(Exposure(unit=f"client:{client}", score=float(mine.mean()), text=text))
    return tuple(sorted(clients, key=lambda one: -one.score)[:SHOWN])
