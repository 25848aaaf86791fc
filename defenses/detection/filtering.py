"""What every detector does around its scores: accuse, drop rows, hand the others on to the rule.

Detectors are stages before the rule, so that each works with every rule and with the plain mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext

from ..aggregation.rounds import exclude, suspect


def accuse(context: RoundContext, clients: Sequence[int], scores: Tensor) -> None:
    """Report the suspicion ``(n,)`` of each row, cut to the largest float32, so that it can be ranked and stored."""
    most = torch.finfo(torch.float32).max
    suspect(context, clients, scores.double().clamp(-most, most))


def without(cohort: Cohort, dropped: Tensor, context: RoundContext) -> Cohort:
    """The cohort without some of its rows, whose identities are reported as excluded.

    Args:
        cohort: of ``n`` rows.
        dropped: ``(n,)`` bool.
        context: of the stage.
    """
    clients, payload = cohort.matrix()
    kept = (~dropped).nonzero().flatten().tolist()
    context.report["selected"] = float(len(kept))
    if len(kept) == len(clients):
        return cohort
    exclude(context, clients, dropped)
    names = tuple(clients[row] for row in kept)
    nobody = Plain(payload.values[:0], payload.weights[:0])
    return Cohort([(names, payload.rows(kept))], nobody=nobody, members=cohort.members)


def most_suspicious(scores: Tensor, *, count: int) -> Tensor:
    """The ``count`` highest scores, the first of equal ones first: ``(n,)`` to ``(n,)`` bool on the CPU."""
    flagged = torch.zeros(len(scores), dtype=torch.bool)
    flagged[scores.cpu().argsort(descending=True, stable=True)[:count]] = True
    return flagged
