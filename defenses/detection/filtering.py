"""What every detector does around its scores: read the round, accuse, drop rows, hand the others on to the rule.

Detectors are stages before the rule, so that each works with every rule and with the plain mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext

from ..aggregation.rounds import gather


def read(cohort: Cohort, context: RoundContext) -> tuple[tuple[int, ...], Plain, Cohort]:
    """The finite rows of a round: names and payload, and the cohort of these rows alone; all may be empty.

    Rows that hold NaN or infinity count as excluded and get no score.
    """
    before, whole = cohort.matrix()
    clients, payload = gather(cohort, context)
    if len(clients) == len(before):
        return clients, payload, cohort
    return clients, payload, Cohort([(clients, payload)], nobody=whole.rows([]), members=cohort.members)


def accuse(context: RoundContext, clients: Sequence[int], scores: Tensor) -> None:
    """Report ``score:<client>`` for every identity behind each row; ``scores`` is ``(n,)``, higher is more suspicious.

    Scores that are not finite are cut to the largest float32, so that they can be ranked and stored.
    """
    most = torch.finfo(torch.float32).max
    for client, score in zip(clients, scores.double().clamp(-most, most).tolist(), strict=True):
        for identity in context.members.get(client, (client,)):
            context.report[f"score:{identity}"] = score


def without(cohort: Cohort, dropped: Tensor, context: RoundContext) -> Cohort:
    """The cohort without some of its rows, whose identities are reported as excluded.

    Args:
        cohort: of ``n`` rows.
        dropped: ``(n,)`` bool.
        context: of the stage.
    """
    clients, payload = cohort.matrix()
    flags = dropped.cpu().tolist()
    context.report["selected"] = float(len(flags) - sum(flags))
    if not any(flags):
        return cohort
    for client, gone in zip(clients, flags, strict=True):
        for identity in context.members.get(client, (client,)) if gone else ():
            context.report[f"excluded:{identity}"] = 1.0
    kept = [row for row, gone in enumerate(flags) if not gone]
    names = tuple(clients[row] for row in kept)
    return Cohort([(names, payload.rows(kept))], nobody=payload.rows([]), members=cohort.members)


def most_suspicious(scores: Tensor, *, count: int) -> Tensor:
    """The ``count`` highest scores, the first of equal ones first: ``(n,)`` to ``(n,)`` bool on the CPU."""
    flagged = torch.zeros(len(scores), dtype=torch.bool)
    flagged[scores.cpu().argsort(descending=True, stable=True)[:count]] = True
    return flagged
