"""Data and model poisoning: pure functions that make malicious labels and updates, and the adversaries around them."""

from .biased_data import reweighed
from .fang import fang_krum, fang_trim
from .feature_noise import noisy_features
from .label_flip import flip_labels, retarget_labels
from .label_noise import noisy_labels
from .mimic import mimic
from .tailored import tailored
from .vectors import alie, alie_z, gaussian, ipm, min_max, min_sum, sign_flip

__all__ = [
    "alie",
    "alie_z",
    "fang_krum",
    "fang_trim",
    "flip_labels",
    "gaussian",
    "ipm",
    "mimic",
    "min_max",
    "min_sum",
    "noisy_features",
    "noisy_labels",
    "retarget_labels",
    "reweighed",
    "sign_flip",
    "tailored",
]
