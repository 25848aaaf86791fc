"""Robust aggregation rules: pure functions on the update matrix, and the defenses around them."""

from .foolsgold import foolsgold_weights
from .rules import (
    centered_clipping,
    coordinate_median,
    geometric_median,
    krum,
    krum_scores,
    krum_selection,
    mean,
    multi_krum,
    trimmed_mean,
)

__all__ = [
    "centered_clipping",
    "coordinate_median",
    "foolsgold_weights",
    "geometric_median",
    "krum",
    "krum_scores",
    "krum_selection",
    "mean",
    "multi_krum",
    "trimmed_mean",
]
