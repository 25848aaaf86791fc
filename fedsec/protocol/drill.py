"""How controlled clients train, when their owner wants more than ordinary training on poisoned data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import Layout
from fedsec.models.lanes import Step

Wrap = Callable[[Step], Step]
"""Wraps one local gradient computation, like `Defense.local`."""


@dataclass(frozen=True, kw_only=True)
class Drill:
    """One round of local training of the controlled clients, in the hands of their owner.

    Attributes:
        round: counted from 0.
        clients: the controlled identities that train, in row order.
        places: which of the controlled identities each of them is, counted from 0.
        model: ``(d,)`` global model of the round.
        previous: ``(d,)`` global model that the coalition saw before, ``None`` at first.
        shards: what each of them trains on, after `Adversary.poison`.
        local: how honest clients train.
        cohort: updates that the server expects.
        layout: of the parameters.
        state: tensors that persist between rounds.
    """

    round: int
    clients: tuple[int, ...]
    places: tuple[int, ...]
    model: Tensor
    previous: Tensor | None
    shards: tuple[Examples, ...]
    local: LocalTraining
    cohort: int
    layout: Layout
    state: dict[str, Tensor]
    _train: Callable[[Tensor, Sequence[Examples] | None, LocalTraining | None, Wrap | None, int], Tensor]
    _clean: Callable[[], tuple[Examples, ...]]

    @property
    def clean(self) -> tuple[Examples, ...]:
        """Their own examples, unpoisoned (of a Sybil: those that it shares)."""
        return self._clean()

    def train(
        self,
        start: Tensor | None = None,
        *,
        shards: Sequence[Examples] | None = None,
        local: LocalTraining | None = None,
        wrap: Wrap | None = None,
        attempt: int = 0,
    ) -> Tensor:
        """Train all of them.

        Args:
            start: ``(d,)``, or ``(k, d)`` with a start for each; the global model by default.
            shards: what they train on; their poisoned examples by default.
            local: hyper-parameters of the attacker's own; those of honest clients by default.
            wrap: around each local gradient computation.
            attempt: another number gives another order of batches.

        Returns:
            ``(k, d)`` trained models minus their starts.
        """
        return self._train(self.model if start is None else start, shards, local, wrap, attempt)
