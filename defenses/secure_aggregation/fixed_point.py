"""Fixed point: rows of floats as words of a ring, so that sums wrap nowhere and are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .ring import Words, dtype_of

_EXACT = 52
"""Bits of a whole number up to which float64 still tells halves apart."""


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """How a value in ``[-value_range, value_range]`` with a whole weight becomes a word, and a sum becomes a mean.

    A row is ``[w y, w]`` with ``y = (x + value_range) / (2 value_range) * (2**bits - 1)``, each entry rounded up or
    down at random with the expectation kept. A word is at most ``max_weight * (2**bits - 1)``, so a sum of ``capacity``
    rows is at most ``capacity * max_weight * (2**bits - 1) < 2**ring_bits``: it never wraps. A word is also at most
    ``2**52``, where float64 still rounds right.

    Attributes:
        value_range: largest magnitude (units of the parameters); what is larger saturates.
        bits: of one value before it is weighed.
        max_weight: largest weight.
        capacity: rows that one sum may have.
        ring_bits: 32 or 64.

    Raises:
        ValueError: a sum could wrap around.
    """

    value_range: float
    bits: int
    max_weight: int
    capacity: int
    ring_bits: int

    def __post_init__(self) -> None:
        if self.bits < 1 or self.bits > most_bits(self.max_weight, self.capacity, self.ring_bits):
            raise ValueError(
                f"a sum of {self.capacity} rows of weight {self.max_weight} and {self.bits} bits does not fit "
                f"into {self.ring_bits} bits"
            )

    @property
    def levels(self) -> int:
        """``2**bits - 1``: the word of the largest value with weight 1."""
        return (1 << self.bits) - 1

    @property
    def step(self) -> float:
        """Distance of neighbouring values (units of the parameters) at weight 1; at weight ``w`` it is ``step / w``."""
        return 2 * self.value_range / self.levels

    def encode(self, values: Tensor, weights: Tensor, draws: Sequence[torch.Generator]) -> Words:
        """Rows as words ``(n, d + 1)``; what is outside the range saturates.

        Args:
            values: ``(n, d)`` finite.
            weights: ``(n,)`` whole numbers in ``[0, max_weight]``.
            draws: a generator per row, for the rounding.

        Raises:
            ValueError: a value is not finite, or a weight is not a whole number in the range.
        """
        whole = [_whole(float(weight), self.max_weight) for weight in weights]
        words = np.empty((len(values), values.shape[1] + 1), dtype_of(self.ring_bits))
        for row, (weight, draw) in enumerate(zip(whole, draws, strict=True)):
            x = _row(values[row])
            y = (x.clip(-self.value_range, self.value_range) + self.value_range) * (weight / self.step)
            # adding the draw may round up to the next whole number, which no true value reaches
            words[row, :-1] = np.minimum(_rounded(y, draw), float(weight * self.levels))
            words[row, -1] = weight
        return words

    def encode_unbound(self, values: Tensor, weights: Tensor, draws: Sequence[torch.Generator]) -> Words:
        """Rows of senders whom nothing binds: no range, any weight, whatever the ring makes of it.

        Nobody can look at a masked word, so this is what a malicious client can do; arguments as for `encode`.
        """
        words = np.empty((len(values), values.shape[1] + 1), dtype_of(self.ring_bits))
        mask = (1 << self.ring_bits) - 1
        for row, draw in enumerate(draws):
            weight = round(float(weights[row]))
            y = (_row(values[row]) + self.value_range) * (weight / self.step)
            limited = _rounded(y, draw).clip(-(2.0**62), 2.0**62).astype(np.int64)
            words[row, :-1] = limited.view(np.uint64).astype(words.dtype)
            words[row, -1] = weight & mask
        return words

    def decode(self, total: Words) -> tuple[npt.NDArray[np.float64], int]:
        """The weighted mean ``(d,)`` and the total weight behind a sum of rows; zeros if the weight is zero."""
        weight = int(total[-1])
        if weight == 0:
            return np.zeros(len(total) - 1), 0
        return total[:-1].astype(np.float64) * (self.step / weight) - self.value_range, weight


def most_bits(max_weight: int, capacity: int, ring_bits: int) -> int:
    """The most bits a value may have so that ``capacity * max_weight * (2**bits - 1) < 2**ring_bits``; 0 if none.

    At most 52 bits with the weight, for float64.
    """
    room = min(((1 << ring_bits) - 1) // (capacity * max_weight), (1 << _EXACT) // max_weight)
    return (room + 1).bit_length() - 1


def _row(values: Tensor) -> npt.NDArray[np.float64]:
    x: npt.NDArray[np.float64] = values.detach().to("cpu", torch.float64).numpy()
    if not bool(np.isfinite(x).all()):
        raise ValueError("fixed point has no infinity and no NaN")
    return x


def _rounded(y: npt.NDArray[np.float64], draw: torch.Generator) -> npt.NDArray[np.float64]:
    """Whole numbers whose expectation is ``y``, to 2**-25.

    Draws are odd multiples of 2**-25: what is a whole number but for rounding in float64 stays that number.
    """
    up = torch.rand(y.shape, generator=draw, dtype=torch.float32).numpy().astype(np.float64) + 2.0**-25
    return np.asarray(np.floor(y + up), dtype=np.float64)


def _whole(weight: float, most: int) -> int:
    if weight != int(weight) or not 0 <= weight <= most:
        raise ValueError(f"a weight of {weight:g} is not a whole number from 0 to {most}")
    return int(weight)
