"""What every aggregating defense does around its rule: read the round, count, report, send one row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext


def gather(cohort: Cohort, context: RoundContext) -> tuple[tuple[int, ...], Plain]:
    """The round as a matrix without rows that hold NaN or infinity, which count as excluded.

    Returns:
        Identities and payload of the finite rows; both may be empty.
    """
    clients, payload = cohort.matrix()
    finite = geometry.finite_rows(payload.values)
    if bool(finite.all()):
        return clients, payload
    exclude(context, clients, ~finite)
    context.report["not finite"] = float((~finite).sum())
    kept = finite.nonzero().flatten()
    return tuple(clients[int(row)] for row in kept), payload.rows(kept)


def exclude(context: RoundContext, clients: Sequence[int], dropped: Tensor) -> None:
    """Report ``excluded:<client id>`` for each client whose row is dropped; ``dropped`` is ``(n,)`` bool."""
    for row in dropped.nonzero().flatten().tolist():
        context.report[f"excluded:{clients[row]}"] = 1.0


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
