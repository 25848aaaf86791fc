"""Data and model poisoning: pure functions that make malicious labels and updates, and the adversaries around them."""

from .label_flip import flip_labels, retarget_labels
from .vectors import alie, alie_z, ipm, min_max, min_sum, sign_flip

__all__ = ["alie", "alie_z", "flip_labels", "ipm", "min_max", "min_sum", "retarget_labels", "sign_flip"]
