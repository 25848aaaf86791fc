"""What a server can do besides adding updates up: it knows the model and may hold a few clean examples."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fedsec.data.examples import Examples


class ServerSide(Protocol):
    """The server of a federation as its defenses use it."""

    def root(self, count: int) -> Examples:
        """Clean examples that the server collected itself, drawn from the public ones; the same ones every round.

        Raises:
            ValueError: the federation sets fewer public examples aside.
        """

    def train(self, model: Tensor, examples: Examples, *, draw: int) -> Tensor:
        """The update ``(d,)`` that a client with these examples would compute from ``model (d,)``."""

    def losses(self, models: Tensor, examples: Examples) -> Tensor:
        """Loss of each model on each example: ``(m, d)`` and ``n`` examples to ``(m, n)`` fp64."""

    def right(self, models: Tensor, examples: Examples) -> Tensor:
        """Whether each model classifies each example rightly: ``(m, n)`` bool."""
