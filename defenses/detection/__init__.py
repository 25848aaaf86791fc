"""Detection of anomalous updates."""

from .curvature import hessian_product
from .directions import Bipartition, bipartition, leaning
from .features import FEATURES, leading_component, outlier_scores, robust_z, select_outliers, update_features
from .impact import impacts
from .two_groups import has_two_groups, upper_group

__all__ = [
    "FEATURES",
    "Bipartition",
    "bipartition",
    "has_two_groups",
    "hessian_product",
    "impacts",
    "leading_component",
    "leaning",
    "outlier_scores",
    "robust_z",
    "select_outliers",
    "update_features",
    "upper_group",
]
