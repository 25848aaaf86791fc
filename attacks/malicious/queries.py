"""Linear queries of an input and bins of equal mass on them, from public statistics alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRID = 8192
"""Points on which a smoothed distribution is inverted."""


def brightness(shape: tuple[int, ...]) -> Tensor:
    """``(f,)``, the mean of all values."""
    size = math.prod(shape)
    return torch.full((size,), 1.0 / size, dtype=torch.float64)


def cosine_mode(shape: tuple[int, ...], mode: tuple[int, int]) -> Tensor:
    """``(f,)``, one mode of the discrete cosine transform (DCT-II), equal in all channels, of absolute sum 1.

    Args:
        shape: of an input; the last two axes are the image, a single axis counts as one row.
        mode: periods over height and width, in halves.

    Raises:
        ValueError: the mode does not fit the shape.
    """
    *channels, height, width = (1, *shape) if len(shape) == 1 else shape
    if not (0 <= mode[0] < height and 0 <= mode[1] < width):
        raise ValueError(f"mode {mode} is not one of {height} x {width}")

    def wave(length: int, number: int) -> Tensor:
        return torch.cos(math.pi * (torch.arange(length, dtype=torch.float64) + 0.5) * number / length)

    plane = torch.outer(wave(height, mode[0]), wave(width, mode[1]))
    whole = plane.expand(*channels, height, width).reshape(-1)
    return whole / whole.abs().sum()


def smoothed_quantiles(values: Tensor, shares: Tensor) -> Tensor:
    """Quantiles of the distribution that a sample is from, smoothed by a Gaussian kernel.

    Between as few public values as there are bins, plain sample quantiles make bins of very unequal mass; smoothing
    takes most of that noise away. Bandwidth: half of Silverman's rule, because distributions of real images are not
    Gaussian.

    Args:
        values: ``(m,)`` the sample.
        shares: ``(s,)`` in (0, 1), ascending.

    Returns:
        ``(s,)`` float64.
    """
    sample = values.double()
    width = 0.5 * 1.06 * float(sample.std()) * len(sample) ** -0.2
    if not width > 0:
        return torch.quantile(sample, shares.double())
    grid = torch.linspace(float(sample.min()) - 4 * width, float(sample.max()) + 4 * width, GRID, dtype=torch.float64)
    mass = torch.stack(
        [torch.special.ndtr((part.unsqueeze(1) - sample) / width).mean(1) for part in grid.chunk(GRID // 512)]
    )
    mass = mass.flatten()
    right = torch.searchsorted(mass, shares.double()).clamp(1, GRID - 1)
    below, above = mass[right - 1], mass[right]
    part = (shares.double() - below) / (above - below).clamp_min(1e-30)
    quantiles: Tensor = grid[right - 1] + part.clamp(0, 1) * (grid[right] - grid[right - 1])
    return quantiles


def gaussian_quantiles(mean: float, deviation: float, shares: Tensor) -> Tensor:
    """Quantiles of a normal distribution, ``(s,)`` float64."""
    quantiles: Tensor = mean + deviation * torch.special.ndtri(shares.double())
    return quantiles


def shares_below(bins: int) -> Tensor:
    """``(bins - 1,)``: the mass below each edge between bins of equal mass."""
    return torch.arange(1, bins, dtype=torch.float64) / bins


def share_alone(examples: int, bins: int) -> float:
    """Expected share of a batch that is alone in its bin, for bins of equal mass: ``(1 - 1/k)^(n - 1)``."""
    return (1.0 - 1.0 / bins) ** (examples - 1)


def alone(values: Tensor, edges: Tensor) -> Tensor:
    """Which of a batch are alone in their bin.

    Args:
        values: ``(n,)`` the query of each example.
        edges: ``(k - 1,)`` between the bins, ascending.

    Returns:
        ``(n,)`` bool.
    """
    bins = torch.bucketize(values.double(), edges.double())
    counts: Tensor = torch.bincount(bins, minlength=len(edges) + 1)
    return counts[bins] == 1
