"""What local steps keep for later steps of the same client in the same round, and what they report of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Place = slice | Tensor
"""Which lanes of a memory a group of lanes is: a run of rows, or int64 rows."""

Report = dict[str, float]
"""Numbers by name that the steps of one client reported in one round."""


class LaneMemory:
    """Tensors of ``lanes`` clients that are trained side by side; made anew when clients start.

    Each name holds, for each lane, rows that are zero until something is written. A batch reads and writes the first
    of them, so batches of any size share them, and lanes of one memory may have batches of different sizes.

    Attributes:
        shapes: output shapes of layers that were asked for, so that each is found once.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._kept: dict[str, Tensor] = {}
        self._reported: dict[str, list[float]] = {}
        self.shapes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}

    def read(self, name: str, place: Place, like: Tensor) -> Tensor:
        """The first rows of each lane of ``place``, a copy shaped ``like (l, b, *)``; zero if never written."""
        found = torch.zeros_like(like, requires_grad=False)
        if name in self._kept:
            rows = self._kept[name][place][:, : like.shape[1]]
            found[:, : rows.shape[1]] = rows
        return found

    def write(self, name: str, place: Place, values: Tensor) -> None:
        """Put ``values (l, b, *)`` in the first ``b`` rows of each lane of ``place``."""
        kept, count = self._kept.get(name), values.shape[1]
        if kept is None or kept.shape[1] < count:
            grown = values.new_zeros(self._lanes, count, *values.shape[2:])
            if kept is not None:
                grown[:, : kept.shape[1]] = kept
            kept = self._kept[name] = grown
        kept[place, :count] = values.detach()

    def report(self, name: str, place: Place, values: Tensor) -> None:
        """Note ``values (l,)`` of each lane of ``place``; the last report of a name counts."""
        noted = self._reported.setdefault(name, [math.nan] * self._lanes)
        rows = range(self._lanes)[place] if isinstance(place, slice) else place.tolist()
        for row, value in zip(rows, values.detach().tolist(), strict=True):
            noted[row] = value

    def reports(self) -> list[Report]:
        """What each lane reported."""
        return [
            {name: values[row] for name, values in self._reported.items() if not math.isnan(values[row])}
            for row in range(self._lanes)
        ]
