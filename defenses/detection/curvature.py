"""How the loss bends along the path of training: a product with the L-BFGS approximation of its Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec import geometry


def hessian_product(steps: Tensor, changes: Tensor, vectors: Tensor) -> Tensor:
    """``B v`` with the L-BFGS matrix ``B`` of some pairs, in its compact form (Byrd, Nocedal & Schnabel 1994, th. 2.3).

    ``B = sigma I - [Y, sigma S] M^-1 [Y, sigma S]^T`` with ``M = [[-D, L^T], [L, sigma S^T S]]``, ``A = S^T Y``, its
    diagonal ``D`` and strict lower triangle ``L``, and ``sigma = y.s / s.s`` of the newest pair. Where pairs depend
    on each other, the least-squares solution is used.

    Args:
        steps: ``(m, d)`` steps ``s`` of the parameters, oldest first.
        changes: ``(m, d)`` changes ``y`` of the gradient along these steps.
        vectors: ``(k, d)``.

    Returns:
        ``(k, d)``, in the dtype of ``vectors``.

    Raises:
        ValueError: there is no pair, the shapes differ, or the newest step is zero.
    """
    m = len(steps)
    if m == 0 or steps.shape != changes.shape or vectors.shape[1] != steps.shape[1]:
        raise ValueError(
            f"needs pairs (m, d) and vectors (k, d), got {tuple(steps.shape)}, {tuple(changes.shape)} and "
            f"{tuple(vectors.shape)}"
        )
    # all products at once, summed in fp64 over chunks of coordinates
    rows = torch.cat([steps, changes, vectors])
    products = geometry.gram(rows)
    if not float(products[m - 1, m - 1]) > 0.0:
        raise ValueError("the newest step is zero: nothing bends along it")
    across = products[:m, m : 2 * m]
    sigma = float(across[-1, -1] / products[m - 1, m - 1])
    lower = across.tril(-1)
    middle = torch.cat(
        [
            torch.cat([-across.diagonal().diag(), lower.t()], dim=1),
            torch.cat([lower, sigma * products[:m, :m]], dim=1),
        ]
    )
    seen = torch.cat([products[m : 2 * m, 2 * m :], sigma * products[:m, 2 * m :]])
    weights = (torch.linalg.pinv(middle) @ seen).t()
    mix = torch.cat([-sigma * weights[:, m:], -weights[:, :m], sigma * torch.eye(len(vectors)).to(weights)], dim=1)
    return geometry.combine_many(rows, mix)
