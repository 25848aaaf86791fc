"""A round of secure aggregation for tests: identities, terms, and what everybody sends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fedsec.defenses.secure_aggregation.keys import Identity
from fedsec.defenses.secure_aggregation.messages import Terms
from fedsec.defenses.secure_aggregation.ring import Words, dtype_of
from fedsec.defenses.secure_aggregation.server import MaskedSum
from fedsec.defenses.secure_aggregation.session import Session

SESSION = b"a public session"


def terms_of(**changes: Any) -> Terms:
    return Terms(**{"session": SESSION, "round": 0, "length": 9, **changes})


def people(n: int) -> dict[int, Identity]:
    return {number: Identity(number) for number in range(n)}


def rows_of(n: int, terms: Terms, seed: int = 0) -> Words:
    """Words from the whole ring, so that sums wrap around."""
    random = np.random.default_rng(seed)
    highest = (1 << terms.ring_bits) - 1
    return random.integers(0, highest, (n, terms.length), dtype=dtype_of(terms.ring_bits).type, endpoint=True)


def arrived(session: Session, rows: Words, *, without: Iterable[int] = ()) -> MaskedSum:
    """The sum of the masked rows of all clients but those that vanish before they upload."""
    total, silent = MaskedSum(session.terms), set(without)
    for number, row in enumerate(rows):
        message = None if number in silent else session.mask(number, row)
        if message is not None:
            total.add(message)
    return total
