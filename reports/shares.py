"""The share of identities that an adversary controls: without it no result of an active attack means anything."""

from __future__ import annotations

from .document import Audit, number_of, table
from .format import quantity


def shares(audit: Audit, attack: str) -> tuple[float, ...]:
    """The shares of identities that an attack controlled on the stacks, ascending."""
    costs = (table(audit.finding(attack, stack), "cost") for stack in audit.stacks)
    return tuple(sorted({share for cost in costs if (share := number_of(cost, "compromised")) is not None}))


def compromised(audit: Audit, attack: str) -> str:
    """The share of identities that an active attack controlled, in words; empty for one that controls none."""
    found = shares(audit, attack)
    if not found:
        return ""
    ends = dict.fromkeys(quantity(share, "share") for share in (found[0], found[-1]))
    return f"{' to '.join(ends)} compromised"
