"""A round context for stages that compress, and what a receiver reads of their rows."""

from __future__ import annotations

from typing import Any

import torch

from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import RoundContext
from fedsec.randomness import generator


def layout_of(*shapes: tuple[int, ...], buffers: int = 0) -> Layout:
    slots: list[Slot] = []
    start = 0
    for number, shape in enumerate(shapes):
        stop = start + int(torch.tensor(shape).prod())
        slots.append(Slot(f"{number}.{'weight' if len(shape) > 1 else 'bias'}", shape, start, stop, True))
        start = stop
    if buffers:
        slots.append(Slot("n.running_var", (buffers,), start, start + buffers, False))
    return Layout(tuple(slots))


def context_of(layout: Layout, clients: tuple[int, ...], **changes: Any) -> RoundContext:
    values: dict[str, Any] = {
        "round": 0, "rounds": 5, "clients": clients, "layout": layout, "population": 10, "cohort": 2.0,
        "sampling": "all", "seed": 3,
    }  # fmt: skip
    return RoundContext(**{**values, **changes})


def rows(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, d, generator=generator("rows", n, d, seed), dtype=dtype)


def received(sent: Plain, row: int) -> torch.Tensor:
    """What the bytes on the wire say."""
    encoded = bytes(sent.serialise(row))
    assert len(encoded) == sent.nbytes(row)
    assert sent.code is not None
    return sent.code.decode(encoded[: -sent.values.element_size()])
