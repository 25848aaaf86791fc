"""The Gaussian mechanism as a membership game: exact scores, and shadows whose confidences are Gaussian."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

PUBLISHED = {1.0: (0.7602, 0.0183), 0.541: (0.904, 0.107), 4.22: (0.5665, 0.0022)}
"""Noise over sensitivity to the optimal test's area and TPR at 0.1 % FPR (closed form)."""


def exact(sigma: float, count: int = 40_000) -> tuple[torch.Tensor, torch.Tensor]:
    """The quantiles of N(1 / sigma, 1) and N(0, 1): scores without sampling error."""
    quantiles = stats.norm.ppf((np.arange(count) + 0.5) / count)
    return torch.from_numpy(quantiles + 1 / sigma), torch.from_numpy(quantiles)


def game(examples: int, shadows: int, *, gap: float, spread: float, scale: float = 0.0, seed: int = 0):
    """Confidences N(difficulty + gap [trained on it], deviation) of a target and of shadows.

    ``spread`` is the deviation of the difficulties over examples, ``scale`` that of the logarithms of deviations.
    Half of the examples are members, and each is in half of the shadows.
    """
    random = np.random.default_rng(seed)
    difficulty = random.normal(0, spread, examples)
    deviation = np.exp(random.normal(0, scale, examples))
    members = np.arange(examples) % 2 == 0
    inside = np.stack([random.permutation(np.arange(shadows) % 2 == 0) for _ in range(examples)], axis=1)
    target = difficulty + deviation * (gap * members + random.normal(size=examples))
    known = difficulty + deviation * (gap * inside + random.normal(size=(shadows, examples)))
    return tuple(torch.from_numpy(array) for array in (target, known, inside, members, difficulty, deviation))
