"""How many malicious rows a rule may be asked to withstand."""

from __future__ import annotations


def bounded(rule: str, n: int, f: int, *, least: int, bound: str) -> None:
    """Refuse an ``f`` for which a rule's condition on ``n`` fails.

    Raises:
        ValueError: ``f < 0`` or ``n < least``; names the rule and the bound.
    """
    if f < 0 or n < least:
        raise ValueError(f"{rule} needs f >= 0 and n >= {bound} = {least} updates, got n = {n} and f = {f}")


def minority(rule: str, n: int, f: int) -> None:
    """`bounded` for the rules that need an honest majority, ``n >= 2f + 1``."""
    bounded(rule, n, f, least=2 * f + 1, bound="2f + 1")
