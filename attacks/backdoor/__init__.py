"""Backdoors: what is planted (triggers, natural subsets, tails) and how controlled clients train and send it."""

from .bounding import replacement_factor, within
from .constrain import anomaly
from .neurotoxin import quiet_coordinates
from .triggers import bars, stamp, trigger

__all__ = ["anomaly", "bars", "quiet_coordinates", "replacement_factor", "stamp", "trigger", "within"]
