"""Rows of small whole multiples of a unit, one unit per segment: rounding to them, and their bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .known_positions import NUMBER

UNIT_DIGITS = 16
"""Binary digits of a unit. With at most 8 digits of a multiple, a product is exact in float32."""
SMALLEST_UNIT = 2.0**-100
LARGEST_LEVEL = 127


def exact_units(units: Tensor) -> Tensor:
    """The smallest numbers of `UNIT_DIGITS` binary digits that are no smaller, and at least `SMALLEST_UNIT`.

    Args:
        units: any shape, not negative.

    Returns:
        float64.
    """
    # a little more, lest the rounding of a division leave the largest value above the last multiple
    mantissa, exponent = torch.frexp(units.double().clamp_min(SMALLEST_UNIT) * (1 + 2.0**-40))
    return torch.ldexp((mantissa * 2.0**UNIT_DIGITS).ceil(), exponent - UNIT_DIGITS)


def to_multiples(values: Tensor, units: Tensor, draws: Tensor | None) -> Tensor:
    """Round to multiples of a unit.

    Args:
        values: ``(n, k)``.
        units: ``(n, k)`` float64, of `exact_units`.
        draws: ``(n, k)`` uniform in [0, 1): up with a chance of the remainder, so that the result is right on average;
            ``None`` rounds to the nearest.

    Returns:
        ``(n, k)`` in the dtype of the values, exact multiples.
    """
    levels = values.double() / units
    levels = levels.round() if draws is None else (levels + draws).floor()
    return (levels * units).to(values.dtype)


@dataclass(frozen=True, eq=False)
class GridCode:
    """One unit per segment (4 bytes), then the multiples in a fixed number of bits each, then the float buffers.

    The unit is read off the row itself: it is the greatest common divisor of the segment's values, so a code holds
    nothing of any row.

    Attributes:
        size: ``d``.
        trainable: coordinates of the parameters; they come first.
        dtype: of the values.
        bounds: where segments end, ascending; the last is ``trainable``.
        levels: largest magnitude of a multiple, at most `LARGEST_LEVEL`.
    """

    size: int
    trainable: int
    dtype: torch.dtype
    bounds: tuple[int, ...]
    levels: int

    @property
    def bits(self) -> int:
        """Of one value: enough for ``-levels .. levels``."""
        return math.ceil(math.log2(2 * self.levels + 1))

    def encode(self, row: Tensor) -> bytes:
        """See `Code`.

        Raises:
            ValueError: a segment holds no multiples of one unit, or too large ones.
        """
        values = row.detach().cpu().numpy().astype(np.float64)
        units = np.zeros(len(self.bounds), dtype="<f4")
        multiples = np.zeros(self.trainable, dtype=np.int64)
        for place, (start, stop) in enumerate(zip((0, *self.bounds), self.bounds, strict=False)):
            units[place], multiples[start:stop] = common_unit(values[start:stop])
        if np.abs(multiples).max(initial=0) > self.levels:
            raise ValueError(f"a row whose values are no multiples up to {self.levels} of one unit per segment")
        shifted = (multiples + self.levels).astype(np.uint8)
        bits = np.unpackbits(shifted[:, None], axis=1)[:, 8 - self.bits :]
        rest = values[self.trainable :].astype(NUMBER[self.dtype])
        return units.tobytes() + np.packbits(bits).tobytes() + rest.tobytes()

    def decode(self, encoded: bytes) -> Tensor:
        """See `Code`."""
        head = 4 * len(self.bounds)
        stop = head + self._packed
        units = np.frombuffer(encoded[:head], "<f4").astype(np.float64)
        raw = np.frombuffer(encoded[head:stop], np.uint8)
        bits = np.unpackbits(raw, count=self.trainable * self.bits).reshape(-1, self.bits)
        padded = np.zeros((self.trainable, 8), dtype=np.uint8)
        padded[:, 8 - self.bits :] = bits
        multiples = np.packbits(padded, axis=1)[:, 0].astype(np.int64) - self.levels
        widths = np.diff((0, *self.bounds))
        number = NUMBER[self.dtype]
        values = (multiples * np.repeat(units, widths)).astype(number)
        row = np.concatenate([values, np.frombuffer(encoded[stop:], number)])
        return torch.from_numpy(row).to(self.dtype)

    def nbytes(self, row: Tensor) -> int:
        """See `Code`."""
        buffers = (self.size - self.trainable) * NUMBER[self.dtype].itemsize
        return 4 * len(self.bounds) + self._packed + buffers

    @property
    def _packed(self) -> int:
        return -(-self.trainable * self.bits // 8)


def common_unit(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.int64]]:
    """The largest unit of which all values are whole multiples, and the multiples; a unit of 0 for zeros.

    Args:
        values: of which each is one of `LARGEST_LEVEL` multiples of one unit of `UNIT_DIGITS` digits; others may give
            multiples that are too large to be told from noise.
    """
    found = np.abs(values[values != 0.0])
    if not len(found):
        return 0.0, np.zeros(len(values), dtype=np.int64)
    _, exponent = np.frexp(found.min())
    # the smallest value has at most 24 digits, so the unit is a multiple of 2^(exponent - 24)
    step = math.ldexp(1.0, int(exponent) - 24)
    if found.max() / step >= 2.0**52:
        raise ValueError("values too far apart to be small multiples of one unit")
    whole = np.rint(found / step).astype(np.int64)
    if np.any(whole * step != found):
        raise ValueError("values that are no multiples of one unit")
    divisor = int(np.gcd.reduce(whole))
    unit = divisor * step
    return unit, np.rint(values / unit).astype(np.int64)


def segments(bounds: Sequence[int]) -> Tensor:
    """Which segment each coordinate lies in, ``(bounds[-1],)`` int64."""
    ends = torch.tensor([0, *bounds])
    return torch.repeat_interleave(torch.arange(len(bounds)), ends.diff())


__all__ = ["LARGEST_LEVEL", "GridCode", "common_unit", "exact_units", "segments", "to_multiples"]
