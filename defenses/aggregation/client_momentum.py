"""Client momentum: what clients send is a running average of their updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Defense, Guarantee, RoundContext
from fedsec.threat import Paper

from ..expect import plain

Start = Literal["update", "zero"]
"""What stands before a client's first update: nothing, so that its momentum is that update, or a momentum of zero."""


def advance(
    state: dict[str, Tensor], clients: tuple[int, ...], updates: Tensor, *, beta: float, start: Start = "update"
) -> Tensor:
    """Each client's momentum after this update: ``m <- (1 - beta) u + beta m``, and at its first as ``start`` says.

    Args:
        state: ``ids (m,)`` and ``momentum (m, d)``, which grow by one row per client never seen before.
        clients: of the rows.
        updates: ``(n, d)``; never changed.
        beta: weight of the past.
        start: ``m <- u`` at the first update, or ``m <- (1 - beta) u``, as after a past of zero.

    Returns:
        ``(n, d)``.
    """
    ids = state.get("ids", torch.empty(0, dtype=torch.int64))
    held = state.get("momentum", updates.new_empty(0, updates.shape[1]))
    row_of = {int(identity): row for row, identity in enumerate(ids)}
    known = [place for place, client in enumerate(clients) if client in row_of]
    fresh = [place for place, client in enumerate(clients) if client not in row_of]
    rows = torch.tensor([row_of[clients[place]] for place in known], dtype=torch.int64, device=updates.device)
    if not fresh:
        result = (1.0 - beta) * updates + beta * held[rows]
        state["momentum"] = held.index_copy(0, rows, result)
        return result
    result = updates.clone()
    if start == "zero":
        result.mul_(1.0 - beta)
    result[known] = (1.0 - beta) * updates[known] + beta * held[rows]
    held = held.clone()
    held[rows] = result[known]
    state["ids"] = torch.cat([ids, torch.tensor([clients[place] for place in fresh], dtype=torch.int64)])
    state["momentum"] = torch.cat([held, result[fresh]])
    return result


@dataclass(frozen=True, kw_only=True)
class ClientMomentum(Defense):
    """Clients send the running average of their updates instead of the update.

    It averages an honest client's noise over rounds, so that honest clients lie closer together and small steady
    deviations stand out; with ``centered-clipping`` behind it this is the paper's algorithm 1. A client that does not
    take part keeps its average as it was. A controlled client sends what it wants. The paper's momentum is of
    gradients at every step; here it is of updates, one per round, which is the same for one local step.
    """

    beta: Annotated[float, Field(ge=0.0, lt=1.0, description="Weight of the past; the paper uses 0.9 and 0.99")] = 0.9
    start: Annotated[
        Start, Field(description="a client's first momentum: its `update`, as in the paper, or a past of `zero`")
    ] = "update"

    name: ClassVar[str] = "client-momentum"
    summary: ClassVar[str] = "Clients send a running average of their updates, so that honest ones vary less"
    family: ClassVar[str] = "variance reduction"
    paper: ClassVar[Paper | None] = Paper(
        title="Learning from History for Byzantine Robust Optimization",
        authors="Karimireddy, He, Jaggi",
        venue="ICML 2021",
        where="algorithm 1, worker momentum",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the robust rule that follows from attacks that hide in the noise of honest updates round after round",
        against="clients that attack within the honest variance",
        assuming="a robust rule follows, and clients take part often: an average over old models is stale",
    )
    cost: ClassVar[str] = "a memory of one update at each client; training reacts later"

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """The client's momentum in place of its update."""
        received = plain(update, self.name)
        return Plain(
            advance(context.state, context.clients, received.values, beta=self.beta, start=self.start), received.weights
        )
