"""Which token stands at which place, from the rows of the token table and of the position table.

With ``g[s, p]`` the gradient at the embedding of sentence ``s`` and place ``p``, the row of a token is the sum of
``g`` over all its occurrences, and the row of a place the sum over all sentences. So the row of a place is a 0-1
combination of token rows, as long as its tokens occur at no other place: least squares tells it. Not part of DAGER,
which has no position rows to read; it undoes what layer norm of additive positions hides from the span check: there
``E_a + P_1``, ``E_a + P_2`` and ``E_b + P_1`` in the span put ``E_b + P_2`` in it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LIKELY, SURE = 0.2, 0.01
"""Distances from 1 up to which a coefficient says that all of a token's row lies at this place."""
EXPLAINED = 1e-3
"""Share of a place's row that may be left, if the place is to be fully explained by its coefficients."""


@dataclass(frozen=True)
class Placement:
    """What the rows say.

    Attributes:
        allowed: ``(n, t)`` bool, tokens that may stand at each place.
        home: ``(n,)`` int64, the only place of a token, -1 if that is not known.
    """

    allowed: Tensor
    home: Tensor


def place_tokens(tokens: Tensor, places: Tensor, *, close: float) -> Placement:
    """Least squares of every place's row on the token rows.

    Args:
        tokens: ``(n, w)`` gradient rows of the tokens that moved.
        places: ``(t, w)`` gradient rows of the places.
        close: `SURE` is hardly ever wrong and tells fewer homes than `LIKELY`, which allows for other tokens of the
            place that occur elsewhere too and so are no 0-1 coefficient.

    Returns:
        Nothing is excluded if there are as many tokens as the width, since then every row is a combination.
    """
    count, length = len(tokens), len(places)
    allowed = torch.ones(count, length, dtype=torch.bool)
    home = torch.full((count,), -1, dtype=torch.int64)
    if count >= tokens.shape[1]:
        return Placement(allowed, home)
    # Rows differ in length by orders of magnitude, so they are scaled before the pseudo-inverse.
    size = tokens.norm(dim=1, keepdim=True).clamp_min(1e-30)
    share = (places @ torch.linalg.pinv(tokens / size)) / size.mT
    left = (places - share @ tokens).norm(dim=1) / places.norm(dim=1).clamp_min(1e-30)
    ones = (share - 1).abs() < close
    elsewhere = share.abs().masked_fill(ones, 0).amax(0)
    for row in ((ones.sum(0) == 1) & (elsewhere < 0.5)).nonzero().flatten().tolist():
        home[row] = int(ones[:, row].long().argmax())
        allowed[row] = False
        allowed[row, int(home[row])] = True
    for place in range(length):
        if float(left[place]) < EXPLAINED:
            allowed[:, place] = share[place] > 0.5
    return Placement(allowed, home)
