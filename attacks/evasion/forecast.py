"""When a random search may be cut short: its own progress says that it will not arrive, and gradients agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FIRST = 1000
_CAUTION, _NEAR, _WITNESS, _MOVED, _SURPRISES, _DEAD = 4.0, 0.25, 0.5, 0.02, 0.05, 0.1


class Forecast:
    """Gives up examples for which a Square search would need far more than what is left of its queries.

    A random search gains less and less: with a doubling of the queries at most about what the last one brought. So
    after ``q`` of ``Q`` queries the margin is expected to fall by what it fell since ``q / 2``, times ``log2(Q / q)``.
    From query 1,000 on an example is given up where *four times* that would not reach zero, and the margin is still
    at least a quarter of that at the input. This is no part of the paper, whose search always makes ``Q`` queries.

    It holds only where gradients can be trusted, for where they are masked Square is the only witness. So an example is
    kept unless gradients had lowered its margin too: by 2 % of that at the input, and by half of what Square has,
    to a point where the gradient is not zero. And everything is kept, to the last query, where a tenth of the
    gradients are zero, or once Square has misled more than 5 % (and more than two) of the examples that gradients left.

    Args:
        clean: ``(b,)`` leads of the true class at the inputs, positive.
        white: ``(b,)`` lowest leads that attacks by gradients have reached.
        dead: ``(b,)`` whether the gradient of the cross-entropy there is zero.
        queries: the whole budget.

    Attributes:
        given_up: how many examples were given up so far.
    """

    def __init__(self, clean: Tensor, white: Tensor, dead: Tensor, queries: int) -> None:
        self._clean, self._moved, self._queries = clean, clean - white, queries
        self._sound = ~dead & (self._moved >= _MOVED * clean)
        self._trusted = float(dead.float().mean()) < _DEAD if len(dead) else True
        self.given_up = 0
        self._seen: dict[int, Tensor] = {}

    def __call__(self, query: int, rows: Tensor, margins: Tensor) -> Tensor:
        """Which rows to give up, ``(k,)``.

        Args:
            query: how many queries were made.
            rows: ``(k,)`` examples that are not misread, of the ``b``.
            margins: ``(k,)`` lowest leads that the search has found for them.
        """
        keep = torch.zeros_like(rows, dtype=torch.bool)
        misled = len(self._clean) - self.given_up - len(rows)
        if misled > max(_SURPRISES * len(self._clean), 2):
            self._trusted = False
        if not self._trusted:
            return keep
        self._seen[query] = torch.zeros_like(self._clean).index_put((rows,), margins.to(self._clean))
        before = max((at for at in self._seen if 2 * at <= query), default=0)
        if query < FIRST or not before:
            return keep
        fall = (self._seen[before][rows] - margins) / math.log2(query / before)
        hopeless = margins > _CAUTION * fall * math.log2(max(self._queries / query, 1))
        far = margins >= _NEAR * self._clean[rows]
        agreed = self._moved[rows] >= _WITNESS * (self._clean[rows] - margins)
        leave = hopeless & far & agreed & self._sound[rows]
        self.given_up += int(leave.sum())
        return leave
