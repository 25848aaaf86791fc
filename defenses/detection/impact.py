"""What one update does to the model's performance on clean examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fedsec import geometry

Compare = Literal["rest", "nothing"]
Performance = Callable[[Tensor], Tensor]

BLOCK_BYTES = 64 << 20
"""Candidate models are formed in blocks of this size."""
WORST = 1e30
"""Performance of a model whose outputs are not finite."""


def impacts(
    U: Tensor, weights: Tensor, *, model: Tensor, performance: Performance, compare: Compare = "rest"
) -> Tensor:
    """How much worse the model gets by each update, ``(n,)`` fp64; positive: it harms.

    Args:
        U: ``(n, d)`` updates, finite.
        weights: ``(n,)`` weights in the mean, not negative.
        model: ``(d,)`` global model.
        performance: of models ``(m, d)``: ``(m,)``, lower is better (mean loss, share of errors).
        compare: ``rest`` is the model with the mean of all updates less the one with the mean of all others (Fang et
            al. 2020, section 5); ``nothing`` is the model with this update alone less the model itself, which needs no
            other client and sees every colluder as it is (Barreno et al. 2010, as federated learning applies it).

    Raises:
        ValueError: the matrix is empty or not finite.
    """
    geometry.check_rows(U)
    shares = weights.double() / weights.double().sum().clamp_min(torch.finfo(torch.float64).tiny)
    if compare == "nothing":
        base = _performance(model.unsqueeze(0), performance)
        mix = torch.eye(len(U), dtype=torch.float64, device=U.device)
        return _mixed(U, mix, model, performance) - base
    whole = _mixed(U, shares.unsqueeze(0), model, performance)
    left = (1.0 - shares).clamp_min(0.0)
    mix = shares.unsqueeze(0).repeat(len(U), 1).fill_diagonal_(0.0)
    # who carries all the weight leaves the model as it is
    mix = torch.where(left.unsqueeze(1) > 1e-12, mix / left.clamp_min(1e-12).unsqueeze(1), 0.0)
    return whole - _mixed(U, mix, model, performance)


def _mixed(U: Tensor, mix: Tensor, model: Tensor, performance: Performance) -> Tensor:
    """Performance of ``model + mix @ U``, ``(m,)`` fp64, without holding all ``m`` models at once."""
    step = max(1, BLOCK_BYTES // (U.shape[1] * U.element_size()))
    parts = [
        _performance(model + geometry.combine_many(U, mix[start : start + step]).to(model), performance)
        for start in range(0, len(mix), step)
    ]
    return torch.cat(parts)


def _performance(models: Tensor, performance: Performance) -> Tensor:
    return torch.nan_to_num(performance(models).double(), nan=WORST, posinf=WORST).clamp(-WORST, WORST)
