"""What every aggregating defense does around its rule: read the round, count, report, send one row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext


def finite(cohort: Cohort, context: RoundContext) -> Cohort:
    """The round without rows that hold NaN or infinity, which count as excluded.

    Nothing is copied where all rows are finite: the cohort itself is returned, with the geometry that it has.
    """
    if "geometry" in vars(cohort):  # it was computed, so its rows are finite
        return cohort
    clients, payload = cohort.matrix()
    passed = geometry.finite_rows(payload.values)
    if bool(passed.all()):
        return cohort
    exclude(context, clients, ~passed)
    context.report["not finite"] = float((~passed).sum())
    kept = passed.nonzero().flatten()
    names = tuple(clients[int(row)] for row in kept)
    nobody = Plain(payload.values[:0], payload.weights[:0])
    return Cohort([(names, payload.rows(kept))], nobody=nobody, members=cohort.members)


def gather(cohort: Cohort, context: RoundContext) -> tuple[tuple[int, ...], Plain]:
    """Identities and payload of the rows that `finite` leaves; both may be empty."""
    return finite(cohort, context).matrix()


def behind(context: RoundContext, client: int) -> tuple[int, ...]:
    """The identities that a row stands for."""
    return context.members.get(client, (client,))


def identities(context: RoundContext, clients: Sequence[int]) -> int:
    """How many identities the rows stand for."""
    return sum(len(behind(context, client)) for client in clients)


def exclude(context: RoundContext, clients: Sequence[int], dropped: Tensor) -> None:
    """Report ``excluded:<client id>`` for all identities behind each dropped row; ``dropped`` is ``(n,)`` bool."""
    for row in dropped.nonzero().flatten().tolist():
        for identity in behind(context, clients[row]):
            context.report[f"excluded:{identity}"] = 1.0


def suspect(context: RoundContext, clients: Sequence[int], suspicion: Tensor) -> None:
    """Report ``score:<client id>``, higher is more suspicious, for all identities behind each row; ``(n,)``."""
    for client, value in zip(clients, suspicion.tolist(), strict=True):
        for identity in behind(context, client):
            context.report[f"score:{identity}"] = value


def relative(values: Tensor) -> Tensor:
    """Non-negative numbers ``(n,)`` in units of their median, so that rounds can be compared; 0 where all are alike."""
    typical = values.quantile(0.5)
    if not float(typical) > 0.0:
        typical = values.max()
    return values / typical if float(typical) > 0.0 else torch.zeros_like(values)


def one_row(value: Tensor, weight: Tensor) -> Plain:
    """An aggregate ``(d,)`` with the total weight of the updates that went into it."""
    return Plain(value.unsqueeze(0), weight.reshape(1))


def nothing(context: RoundContext, clients: Sequence[int], payload: Plain) -> Plain:
    """A round in which no update can be trusted: the zero update of weight 0, reported as ``skipped``."""
    context.report["skipped"] = 1.0
    context.report["selected"] = 0.0
    exclude(context, clients, torch.ones(len(clients), dtype=torch.bool))
    return one_row(payload.values[:0].sum(dim=0), payload.weights[:0].sum())


def assumed(n: float, *, f: int | None, fraction: float) -> int:
    """How many of ``n`` updates a rule assumes to be malicious: ``f``, or ``ceil(fraction * n)``."""
    return math.ceil(fraction * n - 1e-9) if f is None else f


def tolerated(context: RoundContext, wanted: int, *, most: int) -> int:
    """``wanted``, or the most that this cohort allows; reports ``f``, and ``f wanted`` where it had to be lowered.

    Dropouts make cohorts smaller than planned. A negative result says that the rule cannot run at all.
    """
    used = min(wanted, most)
    context.report["f"] = float(max(used, 0))
    if used < wanted:
        context.report["f wanted"] = float(wanted)
    return used
