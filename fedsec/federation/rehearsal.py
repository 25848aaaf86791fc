"""The server's side of a stack as everybody may rehearse it: the rule is public, its memory and its secrets are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedsec.federation.mean import mean
from fedsec.federation.server_side import Server
from fedsec.federation.setup import FederationSetup
from fedsec.federation.stages import Stages
from fedsec.protocol.compose import acts_on_arrival, aggregator
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, Defense
from fedsec.randomness import derive_seed
from fedsec.round_geometry import chain


class Rehearsal:
    """What the public stack's server makes of a round of plain updates that all weigh the same.

    Every call starts without memory of earlier rounds, with random draws of its own, and with clean examples of its own
    where the server has some. Stages that seal are left out, and so is noise added when the aggregate is opened.
    """

    def __init__(self, setup: FederationSetup, stack: Sequence[Defense], *, seed: int) -> None:
        self._setup, self._stack, self._seed = setup, tuple(stack), seed
        self._server = Server(setup, seed=derive_seed(seed, "rehearsal"))

    def __call__(self, updates: Tensor, *, model: Tensor | None = None) -> Tensor:
        """The aggregate.

        Args:
            updates: ``(m, d)``.
            model: ``(d,)`` global model that they answer; the initial one by default.

        Returns:
            ``(d,)``.
        """
        stages = Stages(self._stack, self._setup.setting(self._stack), seed=derive_seed(self._seed, "rehearsal"))
        clients = tuple(range(len(updates)))
        weights = torch.ones(len(updates), dtype=torch.float64, device=updates.device)
        arrived = stages.on_arrival(Plain(updates, weights), 0, clients)
        cohort = Cohort([(clients, arrived)])
        current = self._setup.initial if model is None else model
        cohort = stages.preaggregate(cohort, 0, model=current, server=self._server)
        if stages.rule is None:
            aggregate = mean(cohort, size=updates.shape[1], like=updates)
        else:
            aggregate = stages.aggregate(cohort, 0, model=current, server=self._server)
        if not isinstance(aggregate, Plain):
            raise TypeError("the aggregate of plain updates is not plain")
        return aggregate.values[0]

    def function(self, n: int) -> Callable[[Tensor], Tensor] | None:
        """The same of ``n`` updates as one pure function, which may have a coefficient form; ``None`` if it is more."""
        arriving = [d.row_function(n) for d in self._stack if d.implements("receive") and acts_on_arrival(d)]
        mixing = [d.row_function(n) for d in self._stack if d.implements("preaggregate")]
        last = aggregator(self._stack)
        rule = None if last is None else last.function(n)
        steps = [step for step in (*arriving, *mixing) if step is not None]
        if rule is None or len(steps) < len(arriving) + len(mixing):
            return None
        return chain(*steps, rule) if steps else rule
