"""Intervals, pooling over seeds, severity."""

from fedsec.statistics.bootstrap import bootstrap_mean
from fedsec.statistics.intervals import auc, auc_interval, clopper_pearson, roc, tpr_at_fpr, wilson
from fedsec.statistics.pooling import Pooled, pool
from fedsec.statistics.severity import BANDS, RUBRIC_VERSION, Severity, severity_of

__all__ = [
    "BANDS",
    "RUBRIC_VERSION",
    "Pooled",
    "Severity",
    "auc",
    "auc_interval",
    "bootstrap_mean",
    "clopper_pearson",
    "pool",
    "roc",
    "severity_of",
    "tpr_at_fpr",
    "wilson",
]
