"""Whether some numbers fall into two groups, and which: exact 2-means on a line and the gap statistic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TINY = 1e-12


def upper_group(values: Tensor) -> Tensor:
    """The upper group of the exact 2-means of numbers: ``(n,)`` to ``(n,)`` bool, neither group empty.

    Groups on a line are consecutive, so the best of the ``n - 1`` cuts of the sorted numbers is the best of all.

    Raises:
        ValueError: fewer than 2 numbers.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"two groups need n >= 2 numbers, got n = {n}")
    order = values.double().argsort(stable=True)
    costs = _cuts(values.double()[order].unsqueeze(0))[0]
    upper = torch.zeros(n, dtype=torch.bool, device=values.device)
    upper[order[int(costs.argmin()) + 1 :]] = True
    return upper


def has_two_groups(values: Tensor, *, references: int = 20, generator: torch.Generator) -> bool:
    """Whether the gap statistic finds more than one group (Tibshirani, Walther & Hastie 2001, section 3).

    Numbers are moved and scaled to [0, 1] and compared with as many uniform ones. Its estimate is the smallest ``k``
    with ``Gap(k) >= Gap(k + 1) - s(k + 1)``; whether that is 1 is decided by one and two groups alone.

    Args:
        values: ``(n,)``, finite.
        references: uniform samples.
        generator: of these samples.
    """
    low, high = float(values.min()), float(values.max())
    n = len(values)
    if n < 3 or high - low <= _TINY * max(abs(high), abs(low)):
        return False
    unit = ((values.double().cpu() - low) / (high - low)).sort().values.unsqueeze(0)
    uniform = torch.rand(references, n, generator=generator, dtype=torch.float64).sort(dim=1).values
    gaps, spread = [], 0.0
    for cost in (_one, _two):
        expected = cost(uniform).clamp_min(_TINY).log()
        gaps.append(float(expected.mean() - cost(unit).clamp_min(_TINY).log()[0]))
        spread = float(expected.std(correction=0)) * math.sqrt(1.0 + 1.0 / references)
    return gaps[0] < gaps[1] - spread


def _one(ordered: Tensor) -> Tensor:
    """Sum of squares about the mean, ``(b, n)`` to ``(b,)``."""
    return (ordered - ordered.mean(dim=1, keepdim=True)).square().sum(dim=1)


def _two(ordered: Tensor) -> Tensor:
    """The same about the means of the two best groups."""
    return _cuts(ordered).min(dim=1).values


def _cuts(ordered: Tensor) -> Tensor:
    """Sum of squares within both groups for each cut of sorted numbers: ``(b, n)`` to ``(b, n - 1)``."""
    n = ordered.shape[1]
    centred = ordered - ordered.mean(dim=1, keepdim=True)
    left = centred.cumsum(dim=1)[:, :-1]
    count = torch.arange(1, n, dtype=ordered.dtype, device=ordered.device)
    # the total about the mean less what the two means explain; the sums left and right of a cut cancel
    explained = left.square() * (1.0 / count + 1.0 / (n - count))
    return (centred.square().sum(dim=1, keepdim=True) - explained).clamp_min(0.0)
