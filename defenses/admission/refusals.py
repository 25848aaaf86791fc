"""How an admission stage says whom it did not let in."""

from __future__ import annotations

from collections.abc import Collection

from fedsec.protocol.stage import RoundContext

SCORED = 10_000
"""Identities up to which those let in get a score too; the harness keeps every score of every round."""


def report(context: RoundContext, asked: tuple[int, ...], admitted: Collection[int]) -> tuple[int, ...]:
    """Report how many identities were not admitted, with the score 1 for them and 0 for the others.

    Returns:
        Those admitted, in the order in which they asked.
    """
    let_in = set(admitted)
    for identity in asked:
        if identity not in let_in:
            context.report[f"score:{identity}"] = 1.0
        elif len(asked) <= SCORED:
            context.report[f"score:{identity}"] = 0.0
    context.report["refused"] = float(sum(identity not in let_in for identity in asked))
    return tuple(identity for identity in asked if identity in let_in)
