"""From an advantage to a word, by fixed bands on the upper end of its interval."""

from __future__ import annotations

import math
from enum import StrEnum

RUBRIC_VERSION = 1
"""Counts changes of the bands; stands in every report."""


class Severity(StrEnum):
    """How bad, from an adversary's advantage over the floor."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    NONE = "none"


BANDS: tuple[tuple[Severity, float], ...] = (
    (Severity.CRITICAL, 0.75),
    (Severity.HIGH, 0.5),
    (Severity.MEDIUM, 0.25),
    (Severity.LOW, 0.05),
    (Severity.NONE, 0.0),
)
"""Each band with the lowest advantage in it, worst first."""


def severity_of(advantage_high: float) -> Severity:
    """The band of an advantage.

    Args:
        advantage_high: upper end of the interval of the advantage, in [0, 1]. The upper end, because an attack
            that was measured badly must not look harmless.

    Raises:
        ValueError: it is not in [0, 1].
    """
    if math.isnan(advantage_high) or not 0 <= advantage_high <= 1:
        raise ValueError(f"an advantage lies in [0, 1], found {advantage_high}")
    return next(band for band, lowest in BANDS if advantage_high >= lowest)
