"""Sparse rows whose positions need not travel, because everybody knows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBER: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype("<f4"), torch.float64: np.dtype("<f8")}


@dataclass(frozen=True, eq=False)
class KnownPositionsCode:
    """The values at public positions, then the float buffers as they are; no count and no index travels.

    Attributes:
        size: ``d``.
        trainable: coordinates of the parameters; they come first.
        dtype: of the values.
        positions: ``(k,)`` int64, sorted; what stands elsewhere among the parameters is 0.
    """

    size: int
    trainable: int
    dtype: torch.dtype
    positions: Tensor = field(repr=False)

    def encode(self, row: Tensor) -> bytes:
        """See `Code`."""
        held = torch.cat([row[self.positions.to(row.device)], row[self.trainable :]])
        return held.detach().cpu().numpy().astype(NUMBER[self.dtype]).tobytes()

    def decode(self, encoded: bytes) -> Tensor:
        """See `Code`."""
        values = torch.from_numpy(np.frombuffer(encoded, NUMBER[self.dtype]).copy()).to(self.dtype)
        row = torch.zeros(self.size, dtype=self.dtype)
        row[self.positions.cpu()] = values[: len(self.positions)]
        row[self.trainable :] = values[len(self.positions) :]
        return row

    def nbytes(self, row: Tensor) -> int:
        """See `Code`."""
        return (len(self.positions) + self.size - self.trainable) * NUMBER[self.dtype].itemsize


__all__ = ["NUMBER", "KnownPositionsCode"]
