"""How alike the updates of one adversary's identities are: pure functions on their rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def noisy(shared: Tensor, *, count: int, noise: float, generator: torch.Generator) -> Tensor:
    """``count`` copies of an update with Gaussian noise that cancels in their sum.

    Args:
        shared: ``(d,)``.
        count: identities ``k``.
        noise: expected norm of the noise of one copy, in norms of ``shared``.
        generator: of the noise.

    Returns:
        ``(k, d)`` whose mean is ``shared``; for ``k = 1`` there is nothing to cancel against, and no noise.
    """
    rows = shared.unsqueeze(0).repeat(count, 1)
    if count < 2:
        return rows
    draw = torch.randn(count, shared.numel(), generator=generator, dtype=torch.float32).to(shared.device)
    draw -= draw.mean(dim=0)
    # centring leaves 1 - 1/k of the variance
    scale = noise * float(torch.linalg.vector_norm(shared.double())) / math.sqrt(shared.numel() * (1.0 - 1.0 / count))
    return rows + (scale * draw).to(shared.dtype)


def decorrelated(shared: Tensor, *, directions: Tensor, similarity: float) -> Tensor:
    """Copies of an update that are spread until their pairwise cosine is ``similarity``; the spread cancels in the sum.

    The copies are ``shared + r e_i`` with the corners ``e_i`` of a regular simplex that is orthogonal to ``shared``:
    ``cos = (|s|^2 - r^2 / (k - 1)) / (|s|^2 + r^2)`` fixes ``r``. The lower the cosine, the longer the copies, which is
    what the evasion costs.

    Args:
        shared: ``(d,)``.
        directions: ``(k, d)`` linearly independent rows, ``k < d``; the same row for the same identity in
            every round keeps accumulated updates apart too.
        similarity: in [0, 1].

    Returns:
        ``(k, d)`` whose mean is ``shared``; without spread for ``k = 1`` or if ``shared`` is zero.

    Raises:
        ValueError: ``similarity`` is not in [0, 1], or not ``k < d``.
    """
    count = _spread(directions, similarity)
    norm = float(torch.linalg.vector_norm(shared.double()))
    rows = shared.unsqueeze(0).repeat(count, 1)
    if count < 2 or norm == 0.0:
        return rows
    unit = shared.double() / norm
    spread = directions.double()
    spread = spread - (spread @ unit).unsqueeze(1) * unit
    basis: Tensor = torch.linalg.qr(spread.t()).Q.t()
    corners = (basis - basis.mean(dim=0)) / math.sqrt(1.0 - 1.0 / count)
    radius = norm * math.sqrt((1.0 - similarity) / (similarity + 1.0 / (count - 1)))
    return rows + (radius * corners).to(shared.dtype)


def cautious(rows: Tensor, history: Tensor, *, directions: Tensor, similarity: float) -> tuple[Tensor, bool]:
    """Attack only while the sums of what was sent stay dissimilar; else send noise that pulls them apart.

    The "intelligent perturbation" of FoolsGold's authors: if with this round's updates any two sums would have a cosine
    above the threshold, every identity sends an orthogonal direction of its own, as long as the longest update.
    Of identical updates of constant length a part ``1 / (1 + sqrt(1 / M - 1))`` is sent, so that an attack in every
    round takes ``1 + sqrt(1 / M - 1)`` groups of Sybils.

    Args:
        rows: ``(k, d)`` updates that attack.
        history: ``(k, d)`` sums of what the identities sent before.
        directions: ``(k, d)`` linearly independent rows, ``k < d``, the same in every round.
        similarity: the threshold ``M``, in [0, 1].

    Returns:
        ``(k, d)`` and whether they attack; one identity has nobody to be similar to and always does.

    Raises:
        ValueError: ``similarity`` is not in [0, 1], or not ``k < d``.
    """
    count = _spread(directions, similarity)
    sums = torch.nn.functional.normalize((history + rows).double(), dim=1)
    cosines = (sums @ sums.t()).fill_diagonal_(0.0)
    if count < 2 or float(cosines.max()) <= similarity:
        return rows, True
    longest = torch.linalg.vector_norm(rows.double(), dim=1).max()
    basis: Tensor = torch.linalg.qr(directions.double().t()).Q.t()
    return (longest * basis).to(rows.dtype), False


def _spread(directions: Tensor, similarity: float) -> int:
    """The number of identities, if they can be spread."""
    count, size = directions.shape
    if not 0.0 <= similarity <= 1.0:
        raise ValueError(f"similarity must be in [0, 1], got {similarity}")
    if count >= size:
        raise ValueError(f"{count} identities need more than {count} parameters to spread in, got {size}")
    return count
