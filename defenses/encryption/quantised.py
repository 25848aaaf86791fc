"""Updates as small non-negative integers whose sums are exact: what schemes over integers encrypt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """``2 levels + 1`` evenly spaced values from ``-bound`` to ``bound``, zero among them.

    Attributes:
        bound: largest magnitude (units of the parameters).
        bits: of a code.
    """

    bound: float
    bits: int

    @property
    def levels(self) -> int:
        """Steps on either side of zero; codes are ``0 ... 2 levels``, and ``2 levels = 2**bits - 2``."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def step(self) -> float:
        """Distance of two neighbours."""
        return self.bound / self.levels


def quantise(values: Reals, grid: Grid, uniforms: npt.NDArray[np.floating], *, scale: float = 1.0) -> Integers:
    """Cut off at the bound, scale, and round at random to a neighbour on the grid so that the mean is the value.

    ``floor(scale * clip(x) / step + u) + levels``: unbiased for what lies within the bound, and zero stays zero.

    Args:
        values: ``(d,)`` float64, finite.
        grid: where to.
        uniforms: ``(d,)`` drawn from [0, 1).
        scale: in [0, 1], the weight of these values; applied after the cut, so it stays within the bound.

    Returns:
        ``(d,)`` codes in ``[0, 2 levels]``.
    """
    limit = grid.levels * scale
    scaled = values * (scale / grid.step)
    np.clip(scaled, -limit, limit, out=scaled)
    scaled += uniforms
    np.floor(scaled, out=scaled)
    scaled += grid.levels
    return scaled.astype(np.int64)


def saturated(values: Reals, grid: Grid) -> int:
    """How many values `quantise` cuts off."""
    return int(np.count_nonzero(np.abs(values) > grid.bound))


def dequantise(total: Integers, grid: Grid, *, rows: int) -> Reals:
    """The sum of values behind a sum of codes.

    Args:
        total: ``(d,)`` sum of the codes of some rows.
        grid: as they were quantised.
        rows: how many.

    Returns:
        ``(d,)`` ``(total - rows levels) step``, one rounding of float64 per entry.
    """
    return (total - rows * grid.levels).astype(np.float64) * grid.step


def mean_of(total: Integers, grid: Grid, *, largest_weight: int) -> tuple[Reals, float]:
    """The weighted mean and the total weight behind a sum of rows ``[1, w, codes of w / largest_weight * x]``.

    Args:
        total: ``(d + 2,)``.
        grid: of the codes.
        largest_weight: what weights were divided by.

    Returns:
        ``(d,)``, zero if the total weight is zero, and the total weight.
    """
    rows, weight = int(total[0]), int(total[1])
    sums = dequantise(total[2:], grid, rows=rows)
    return (sums * (largest_weight / weight) if weight else np.zeros_like(sums)), float(weight)


def uniforms(size: int, generator: torch.Generator) -> npt.NDArray[np.float32]:
    """``(size,)`` draws from [0, 1) of 24 bits each."""
    drawn: npt.NDArray[np.float32] = torch.rand(size, generator=generator).numpy()
    return drawn


def carry_bits(rows: int) -> int:
    """Bits by which a sum of so many terms may be longer than a term: ``rows <= 2**carry_bits``."""
    return max(0, math.ceil(math.log2(rows)))


@dataclass(frozen=True)
class Lanes:
    """Several codes side by side in one larger integer, far enough apart that their sums never meet.

    A code is at most ``2**bits - 2``, and a sum of ``rows <= 2**carry`` codes less than ``2**(bits + carry)``,
    which is the width of a lane: no sum reaches into the next lane. ``count`` lanes hold less than
    ``2**(count * width) <= 2**room``, which is no more than the plaintext modulus: no packed sum wraps around.

    Attributes:
        bits: of a code.
        rows: of a sum, at most.
        room: bits of one plaintext that may be used.
    """

    bits: int
    rows: int
    room: int

    @property
    def width(self) -> int:
        """Bits of a lane."""
        return self.bits + carry_bits(self.rows)

    @property
    def count(self) -> int:
        """Lanes of a plaintext; 0 if not even one has room."""
        return self.room // self.width

    def pack(self, codes: Integers) -> Integers:
        """Codes ``(d,)`` into ``(ceil(d / count),)`` integers; lane ``k`` holds the ``k``-th block of the codes.

        Raises:
            OverflowError: a code is no code, or the lanes are too narrow for a sum of as many.
        """
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) <= 2**self.bits - 2:
            raise OverflowError(f"a code outside of 0 ... 2^{self.bits} - 2")
        if self.rows * (2**self.bits - 2) >= 2**self.width or self.room > 62:
            raise OverflowError("the lanes are too narrow for the sum")
        places = -(-len(codes) // self.count)
        packed = np.zeros(places, dtype=np.int64)
        for lane in range(self.count):
            block = codes[lane * places : (lane + 1) * places]
            packed[: len(block)] |= block << (lane * self.width)
        return packed

    def unpack(self, packed: Integers, size: int) -> Integers:
        """The sums of codes ``(size,)`` in a sum of packed rows."""
        mask = (1 << self.width) - 1
        lanes: Sequence[Integers] = [(packed >> (lane * self.width)) & mask for lane in range(self.count)]
        return np.concatenate([*lanes, np.zeros(0, dtype=np.int64)])[:size]
