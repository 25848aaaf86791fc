"""What sums of repeated cohorts give away together: no masking protects against subtraction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def solved_by_differencing(
    sums: Tensor, cohorts: Sequence[Sequence[int]], *, tolerance: float = 1e-9
) -> dict[int, Tensor]:
    """The clients whose mean update follows from sums over cohorts, as if each sent the same in every round.

    Each sum is one equation in the clients' updates. A client is solved if its unit vector is a combination of the
    rows of the incidence matrix (the least-squares solution is then exact, up to how much its update and others'
    moved between the rounds). Two cohorts that differ in one client solve that client.

    Args:
        sums: ``(rounds, d)`` opened sums.
        cohorts: who is in each.
        tolerance: up to which a combination counts as exact.

    Returns:
        By client the solved update ``(d,)``; no client that is not determined.
    """
    clients = sorted({client for cohort in cohorts for client in cohort})
    place = {client: column for column, client in enumerate(clients)}
    incidence = np.zeros((len(cohorts), len(clients)))
    for row, cohort in enumerate(cohorts):
        incidence[row, [place[client] for client in cohort]] = 1.0
    inverse = np.linalg.pinv(incidence)
    determined = np.abs(inverse @ incidence - np.eye(len(clients))).max(axis=1) < tolerance
    solution = torch.from_numpy(inverse).to(sums) @ sums
    return {client: solution[row] for client, row in place.items() if determined[row]}
