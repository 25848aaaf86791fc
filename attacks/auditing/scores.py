"""How much each canary's direction is found in what an auditor sees, on a scale on which excluded ones are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsec.randomness import generator


def direction(seed: int, identity: int, size: int) -> Tensor:
    """The unit vector ``(size,)`` of one canary, uniform on the sphere; the same in every round."""
    draw = torch.randn(size, generator=generator(seed, "canary", identity))
    unit: Tensor = draw / torch.linalg.vector_norm(draw)
    return unit


def lone_score(found: Tensor, towards: Tensor) -> float:
    """``sqrt(d)`` times the cosine of what one canary sent with its direction, both ``(d,)``; 0 for zeros.

    If the direction is random and the rest does not depend on it, this is standard normal for large ``d``.
    """
    norm = float(torch.linalg.vector_norm(found.double()))
    return math.sqrt(found.numel()) * float(found.double() @ towards.double()) / norm if norm > 0 else 0.0


def joint_scores(directions: Tensor, steps: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Scores of all canaries in sums of changes to which all of them contribute.

    The cosine with one direction alone has the other canaries as noise. They are the auditor's own, so their
    directions are regressed out: with ``u`` the part of a direction that is orthogonal to all the others, and ``r``
    the part of the change that is, the score is ``sqrt(d - m + 1)`` times the cosine of ``u`` and ``r``. Given the
    others, ``u`` is uniform on its subspace, so that the score of an excluded canary is standard normal for large
    ``d - m``, as for the plain cosine.

    Args:
        directions: ``(m, d)`` random rows, ``m < d``.
        steps: ``(t, d)`` changes of the model.
        groups: for each canary the steps whose sum it is looked for in; without any it scores 0.

    Returns:
        ``(m,)`` float64.

    Raises:
        ValueError: there are not fewer directions than dimensions.
    """
    m, d = directions.shape
    if m >= d:
        raise ValueError(f"{m} canaries cannot be told apart in {d} dimensions")
    inverse = torch.linalg.inv((directions @ directions.T).double())
    products = (directions @ steps.T).double()
    squares = (steps @ steps.T).double()
    scores = torch.zeros(m, dtype=torch.float64)
    # canaries that are looked for in the same sum share its regression
    for group in set(map(tuple, groups)):
        if not group:
            continue
        rows = torch.tensor([tuple(one) == group for one in groups])
        along = products[:, list(group)].sum(1)
        coefficients = inverse @ along
        left = float(squares[list(group)][:, list(group)].sum() - along @ coefficients)
        own = coefficients / inverse.diagonal().sqrt()
        length = (own.square() + max(left, 0.0)).sqrt()
        found = torch.where(length > 0, math.sqrt(d - m + 1) * own / length.clamp_min(1e-300), 0.0)
        scores[rows] = found[rows]
    return scores
