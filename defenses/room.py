"""Room for sums: how many rows one may have, and the parameters of stages that add up rows in fixed point."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

ValueRange = Annotated[
    float, Field(gt=0, description="largest magnitude of an entry (units of the parameters); larger ones saturate")
]
MaxWeight = Annotated[int, Field(ge=1, le=16777216, description="largest weight of a client (examples)")]


def rows_expected(cohort: float, capacity: int | None, *, slack: float = 2.0) -> int:
    """Rows that one sum must have room for: those asked for, else a power of 2 of at least 16 above the cohort.

    Args:
        cohort: clients expected per round.
        capacity: rows asked for, if any.
        slack: how many times the cohort there must be room for (more than once where its size is drawn).
    """
    if capacity is not None:
        return capacity
    rows = 16
    while rows < slack * cohort:
        rows *= 2
    return rows
