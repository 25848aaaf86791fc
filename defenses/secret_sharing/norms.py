"""Whether a shared update is no longer than it may be: the servers learn yes or no, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .arithmetic import Dealer, Traffic, Words, opened_bits, squared
from .comparison import any_high_bit, any_of, either, is_negative


@dataclass(frozen=True, kw_only=True)
class NormBound:
    """A bound on the L2 norm of a fixed-point row ``[w y, w]`` with ``y`` in ``[0, levels]``.

    The centred row ``z = 2 w y - w levels`` is ``w levels / value_range`` times the update, and linear in the shares.
    Accepted is what has ``|z|**2 <= w**2 (bound levels / value_range + 2 sqrt(d))**2``: the second term is the most
    that rounding adds, so no honest row within the bound is refused. First every entry is shown to be small, or the
    sum of squares could wrap around: a client that sends huge words would pass as short.

    Attributes:
        bound: L2 norm (units of the parameters).
        value_range: of an entry.
        levels: as in fixed point.
        max_weight: largest weight.
        size: entries of an update.

    Raises:
        ValueError: a sum of squares could wrap around.
    """

    bound: float
    value_range: float
    levels: int
    max_weight: int
    size: int

    def __post_init__(self) -> None:
        if self.size * (2 << self.entry_bits) ** 2 >= 1 << 62 or self.factor << (2 * self.weight_bits) >= 1 << 62:
            raise ValueError(f"squares of {self.size} entries of {self.entry_bits} bits do not fit into 64 bits")

    @property
    def entry_bits(self) -> int:
        """Bits of ``w y``."""
        return (self.max_weight * self.levels).bit_length()

    @property
    def weight_bits(self) -> int:
        """Bits of ``w``."""
        return self.max_weight.bit_length()

    @property
    def factor(self) -> int:
        """What ``w**2`` is multiplied by; no larger than the longest row needs."""
        longest = self.levels * math.sqrt(self.size)
        return math.floor((min(self.bound * self.levels / self.value_range, longest) + 2 * math.sqrt(self.size)) ** 2)

    def accepts(self, row: Words, traffic: Traffic) -> bool:
        """Run the check.

        Args:
            row: ``(servers, size + 1)`` shares of ``[w y, w]``.
            traffic: of the servers.
        """
        dealer = Dealer(len(row), traffic)
        entries, weight = row[:, :-1], row[:, -1:]
        wide = any_of(any_high_bit(entries, self.entry_bits, dealer, traffic), dealer, traffic)
        heavy = any_high_bit(weight, self.weight_bits, dealer, traffic)[:, 0]
        centred = np.uint64(2) * entries - np.uint64(self.levels) * weight
        squares = squared(np.concatenate([centred, weight], axis=1), dealer, traffic)
        room = np.uint64(self.factor) * squares[:, -1] - squares[:, :-1].sum(axis=1, dtype=np.uint64)
        long = is_negative(room[:, None], dealer, traffic)[:, 0]
        refused = either(either(wide, heavy, dealer, traffic), long, dealer, traffic) & np.uint64(1)
        return int(opened_bits(refused, traffic)) == 0


def most_bits_for_squares(size: int, max_weight: int) -> int:
    """The most bits a value may have so that the check of `NormBound` wraps nowhere; 0 if none."""
    for bits in range(40, 0, -1):
        entry = (max_weight * ((1 << bits) - 1)).bit_length()
        largest = ((1 << bits) - 1 + 2) ** 2 * size
        if size * (2 << entry) ** 2 < 1 << 62 and largest << (2 * max_weight.bit_length()) < 1 << 62:
            return bits
    return 0
