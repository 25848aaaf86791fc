"""What the server does with masked rows as they arrive: add them up, and remember whose they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .messages import Reader, Step, Terms, identities
from .server import MaskedSum


@dataclass(frozen=True)
class MaskedScheme:
    """The public side: no key, no seed, no share.

    Attributes:
        terms: of the round.
        dtype: of the federation's updates, so that the opener gives back what the clients had.
    """

    terms: Terms
    dtype: torch.dtype

    def start(self, row: bytes) -> MaskedSum:
        """A sum of one row; of none if the row is empty, because its sender could not take part."""
        return self.add(MaskedSum(self.terms), row)

    def add(self, accumulator: MaskedSum, row: bytes) -> MaskedSum:
        """The sum with one more row, in place; see `MaskedSum.add`."""
        if row:
            accumulator.add(row)
        return accumulator

    def finish(self, accumulator: MaskedSum) -> bytes:
        """The sum as bytes: whose rows it has, then the words."""
        return identities(accumulator.senders) + accumulator.total.tobytes()

    def sender(self, row: bytes) -> int:
        """Whose masked row it is."""
        return self.terms.read(row, Step.MASKED)[0]


def read_sum(terms: Terms, total: bytes) -> MaskedSum:
    """The sum behind what `MaskedScheme.finish` gave.

    Raises:
        ProtocolError: it is not such a sum.
    """
    found = MaskedSum(terms)
    reader = Reader(memoryview(total))
    found.senders = set(reader.identities())
    words = np.frombuffer(reader.take(found.total.nbytes), found.total.dtype)
    reader.end()
    found.total = words.copy()
    return found
