"""What an attack on a model cost, in passes through it."""

from __future__ import annotations

import torch

from fedsec.judges.base import Measurement


def passes(what: str, spent: int, inputs: int) -> Measurement:
    """What an attack cost, free of hardware.

    Args:
        what: ``forward`` or ``backward``.
        spent: passes, counted per example.
        inputs: how many were attacked.
    """
    each = spent / max(inputs, 1)
    return Measurement(
        name=f"{what}_passes",
        statistic="mean",
        units=torch.full((inputs,), each),
        floor=0.0,
        ceiling=max(each, 1.0),
        unit="passes",
        description=f"Passes {what} through the model that the attack took, per input.",
    )
