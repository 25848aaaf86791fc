"""Gradient inversion: inputs out of updates."""

from .closed_form import invert_linear
from .counts import label_counts

__all__ = ["invert_linear", "label_counts"]
