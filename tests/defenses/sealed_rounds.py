"""A round of a sealing defense without a federation: its context, the server's sum, and the truth in whole numbers."""

from typing import Any

import torch

from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Masked, Plain, Sealed
from fedsec.protocol.stage import RoundContext, Setting


def layout(d: int) -> Layout:
    return Layout((Slot("w", (d,), 0, d, True),))


def context(d: int, clients: int | tuple[int, ...], *, vault: dict[str, Any], **changes: Any) -> RoundContext:
    ids = tuple(range(clients)) if isinstance(clients, int) else clients
    values: dict[str, Any] = {
        "round": 0, "rounds": 1, "clients": ids, "layout": layout(d), "population": max(len(ids), 1),
        "cohort": max(len(ids), 1), "sampling": "all", "seed": 3, "vault": vault,
    }  # fmt: skip
    return RoundContext(**{**values, **changes})


def setting(d: int = 3, **changes: Any) -> Setting:
    values: dict[str, Any] = {
        "population": 10, "cohort": 10, "rounds": 2, "sampling": "all", "layout": layout(d), "local_steps": 1,
        "batch_size": None, "has_batch_norm": True, "task": "classification", "bounds": None, "stack": (),
    }  # fmt: skip
    return Setting(**{**values, **changes})


def summed(sealed: Sealed) -> Sealed:
    """What the server does."""
    accumulator = sealed.scheme.start(sealed.ciphertexts[0])
    for row in sealed.ciphertexts[1:]:
        accumulator = sealed.scheme.add(accumulator, row)
    return Sealed((sealed.scheme.finish(accumulator),), sealed.scheme, sealed.holders, len(sealed))


def summed_shares(*payloads: Masked) -> Masked:
    """The same of masked or shared rows, which may have come in several chunks."""
    first, *others = [row for payload in payloads for row in payload.masked]
    scheme = payloads[0].scheme
    accumulator = scheme.start(first)
    for row in others:
        accumulator = scheme.add(accumulator, row)
    return payloads[0].summed(scheme.finish(accumulator))


def opened(defense: Any, update: Plain, told: RoundContext) -> Plain:
    return defense.open(summed(defense.seal(update, told)), told)


def integer_mean(defense: Any, update: Plain, told: RoundContext) -> torch.Tensor:
    """The mean of the quantised rows, with one Python integer per entry: the truth that the opened mean must equal."""
    unit, levels, step = defense.largest_weight or 1, defense.grid.levels, defense.grid.step
    totals, weight = [0] * update.values.shape[1], 0
    for client, row, given in zip(told.clients, update.values.double(), update.weights.tolist(), strict=True):
        draws = torch.rand(len(row), generator=told.generator("round", client)).double().tolist()
        heavy = int(given) if defense.largest_weight else 1
        weight += heavy
        for place, (value, draw) in enumerate(zip(row.tolist(), draws, strict=True)):
            limit = levels * (heavy / unit)
            scaled = min(max(value * ((heavy / unit) / step), -limit), limit)
            totals[place] += int((scaled + draw) // 1)
    return torch.tensor([float(total) * step * (unit / weight) for total in totals], dtype=torch.float64)
