"""Detection of anomalous updates."""

from .features import FEATURES, leading_component, outlier_scores, robust_z, select_outliers, update_features

__all__ = [
    "FEATURES",
    "leading_component",
    "outlier_scores",
    "robust_z",
    "select_outliers",
    "update_features",
]
