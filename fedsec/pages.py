"""Large results of which every number is written, in memory that costs little to touch for the first time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_NUMBER = {torch.float32: np.float32, torch.float64: np.float64}


def unfilled(rows: int, columns: int, like: Tensor) -> Tensor:
    """An ``(rows, columns)`` tensor of ``like``'s type and device with whatever stands in its memory.

    On a CPU NumPy gives the memory: it asks Linux for large pages where that is worth it. A round of 200 MB is 50,000
    small pages, and to touch each of them for the first time takes longer than to scale the rows.
    """
    number = _NUMBER.get(like.dtype)
    if like.device.type != "cpu" or number is None:
        return like.new_empty(rows, columns)
    return torch.from_numpy(np.empty((rows, columns), dtype=number))
