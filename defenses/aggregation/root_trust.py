"""FLTrust: a small data set of the server's own says which direction is right."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.round_geometry import RoundGeometry, weighs


def fltrust_coefficients(round_: RoundGeometry, *, root: int = -1) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `fltrust` where one row of the geometry is the root's update; its own is 0.

    Args:
        round_: clients' rows and the root's.
        root: index of the root's row.
    """
    root = root % round_.n
    cosines = round_.cosines[root].clone()
    cosines[root] = 0.0
    return _coefficients(cosines, round_.norms, round_.norms[root])


def fltrust_weights(U: Tensor, root_update: Tensor) -> Tensor:
    """Coefficients ``(n,)`` fp64 of `fltrust`; all 0 if no client is trusted."""
    geometry.check_rows(U)
    if root_update.shape != (U.shape[1],) or not bool(torch.isfinite(root_update).all()):
        raise ValueError(f"root_update must be finite, of shape ({U.shape[1]},), got {tuple(root_update.shape)}")
    norms = geometry.row_norms(U)
    length = geometry.row_norms(root_update.unsqueeze(0))[0]
    scale = norms * length
    return _coefficients(
        torch.where(scale > 0, geometry.dots(U, root_update) / scale, 0.0).clamp(-1.0, 1.0), norms, length
    )


def _coefficients(cosines: Tensor, norms: Tensor, length: Tensor) -> Tensor:
    trust = cosines.clamp_min(0.0)
    trust = torch.where(norms > 0, trust, 0.0)
    total = trust.sum()
    if not float(total) > 0.0:
        return torch.zeros_like(trust)
    return torch.where(norms > 0, trust / total * (length / norms), 0.0)


def fltrust(U: Tensor, root_update: Tensor) -> Tensor:
    """FLTrust (Cao, Fang, Liu, Gong 2021, algorithm 2), ``(n, d)`` to ``(d,)``.

    Each row is rescaled to the norm of the root's update and weighed by ``TS_i = max(0, cos(x_i, x_root))``; the
    weights are divided by their sum. If no row has a positive cosine the result is zero: the round is skipped.

    Args:
        U: ``(n, d)``.
        root_update: ``(d,)`` what the server's own training on its root data set gives.

    Raises:
        ValueError: shapes differ, or something is not finite.
    """
    return geometry.combine(U, fltrust_weights(U, root_update))


weighs(fltrust_coefficients, without=("root_update",))(fltrust)
