"""Robust aggregation rules and pre-aggregators as pure functions on the update matrix ``U (n, d)``, under one name.

No rule changes its input; every rule refuses what its paper's condition excludes, with the bound in the
message. The coordinate-wise rules, Krum and the geometric median ignore example counts: a client that lies about
its number of examples would otherwise buy influence.
"""

from .averages import mean, mean_coefficients
from .bulyan import bulyan, bulyan_picks
from .coordinates import coordinate_median, mean_around_median, trimmed_mean
from .diameter import (
    minimum_diameter_averaging,
    minimum_diameter_averaging_coefficients,
    minimum_diameter_subset,
)
from .mixing import bucketing, bucketing_matrix, nearest_neighbor_mixing, nearest_neighbor_mixing_matrix
from .nearest import (
    PRESETS,
    KrumVariant,
    krum,
    krum_coefficients,
    krum_scores,
    krum_selection,
    multi_krum,
    multi_krum_coefficients,
)
from .radius import (
    adaptive_clipping,
    adaptive_clipping_matrix,
    centered_clipping,
    centered_clipping_coefficients,
    clip_norms,
    clip_norms_matrix,
)
from .root_trust import fltrust, fltrust_coefficients, fltrust_weights
from .spectral import divide_and_conquer, divide_and_conquer_coefficients, divide_and_conquer_kept
from .weiszfeld import geometric_median, geometric_median_coefficients, geometric_median_weights

__all__ = [
    "PRESETS",
    "KrumVariant",
    "adaptive_clipping",
    "adaptive_clipping_matrix",
    "bucketing",
    "bucketing_matrix",
    "bulyan",
    "bulyan_picks",
    "centered_clipping",
    "centered_clipping_coefficients",
    "clip_norms",
    "clip_norms_matrix",
    "coordinate_median",
    "divide_and_conquer",
    "divide_and_conquer_coefficients",
    "divide_and_conquer_kept",
    "fltrust",
    "fltrust_coefficients",
    "fltrust_weights",
    "geometric_median",
    "geometric_median_coefficients",
    "geometric_median_weights",
    "krum",
    "krum_coefficients",
    "krum_scores",
    "krum_selection",
    "mean",
    "mean_around_median",
    "mean_coefficients",
    "minimum_diameter_averaging",
    "minimum_diameter_averaging_coefficients",
    "minimum_diameter_subset",
    "multi_krum",
    "multi_krum_coefficients",
    "nearest_neighbor_mixing",
    "nearest_neighbor_mixing_matrix",
    "trimmed_mean",
]
