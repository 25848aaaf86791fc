"""How far the nearest misread point of every input is, as far as an attack found one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from fedsec.ball import AnyNorm, lengths

NORMS: tuple[AnyNorm, ...] = get_args(AnyNorm)


def sizes(delta: Tensor) -> dict[AnyNorm, Tensor]:
    """``(n,)`` length of every perturbation ``(n, *shape)`` in each norm."""
    return {norm: lengths(delta, norm).flatten() for norm in NORMS}


def reach(x: Tensor, misread: Tensor, tries: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """``(n,)`` length of the smallest perturbation that fooled the model, in each norm.

    Args:
        x: ``(n, *shape)`` the inputs.
        misread: ``(n,)`` bool, which are misread as they are; their length is 0.
        tries: perturbed inputs shaped like ``x``, and which of them are misread. Others do not count; an input without
            any has an infinite length.
    """
    nearest: dict[AnyNorm, Tensor] = {norm: torch.full(misread.shape, torch.inf) for norm in NORMS}
    for points, fooled in tries:
        for norm, length in sizes(points - x).items():
            counted = torch.where(fooled, length, torch.inf).to(nearest[norm])
            nearest[norm] = torch.minimum(nearest[norm], counted)
    return {norm: torch.where(misread.cpu(), 0.0, length) for norm, length in nearest.items()}
