"""How long a malicious update is: scaled until it replaces the model, cut where a bound forbids it."""

from __future__ import annotations

import torch
from torch import Tensor


def replacement_factor(own: Tensor, *, cohort: int, rate: float = 1.0, total: float | None = None) -> float:
    """The factor that makes the next global model the attacker's own (Bagdasaryan et al. 2020, eq. 3).

    With updates ``u_i = X - G`` of the ``k`` attackers and the server's ``G' = G + rate sum_i m_i u_i / sum_i m_i``,
    updates times ``sum m / (rate sum_attackers m)`` make ``G'`` the (weighted mean) ``X`` plus what the others move,
    which is little near convergence. Where all weigh the same this is ``n / (rate k)``: ``n`` are the updates
    aggregated in the round, never the population.

    Args:
        own: ``(k,)`` the weights of the attackers' updates.
        cohort: updates that the server expects in the round, ``n``.
        rate: the server's learning rate.
        total: weight of all updates of the round; if it is not known, others weigh as much as the attackers on average.

    Raises:
        ValueError: no weight, or nothing to replace with.
    """
    weight = float(own.double().sum())
    if weight <= 0.0 or rate <= 0.0:
        raise ValueError(f"a replacement needs weight and a positive server rate, got {weight} and {rate}")
    whole = cohort * weight / len(own) if total is None else total
    return max(whole, weight) / (rate * weight)


def within(rows: Tensor, lengths: Tensor) -> Tensor:
    """The nearest rows in L2 balls about zero.

    Args:
        rows: ``(k, d)``; not changed.
        lengths: ``(k,)`` radii, or one for all; infinite for no bound.

    Returns:
        ``(k, d)``.
    """
    norms = torch.linalg.vector_norm(rows.double(), dim=1)
    factors = (lengths.double() / norms.clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(1.0)
    shortened: Tensor = rows * factors.to(rows.dtype).unsqueeze(1)
    return shortened
