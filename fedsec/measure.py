"""Measures of leakage on plain tensors, for use outside an audit."""

from __future__ import annotations

from fedsec.epsilon.one_run import one_run_epsilon
from fedsec.judges.identification import Identifiability, identifiability
from fedsec.statistics.curve import RocCurve, roc

__all__ = ["Identifiability", "RocCurve", "identifiability", "one_run_epsilon", "roc"]
