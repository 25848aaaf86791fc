"""The way up: what clients want to send is checked, goes through their stages, is counted and recorded, and arrives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsec.errors import ConfigurationError
from fedsec.federation.stages import Stages
from fedsec.federation.wire import Ledger, Transcript, acceptable, in_precision
from fedsec.protocol.events import Topic
from fedsec.protocol.payload import Payload, Plain, in_clear


@dataclass(frozen=True, kw_only=True)
class Uplink:
    """From clients to the server, in one training.

    Attributes:
        stages: of the stack.
        transcript: where uploads are recorded.
        ledger: where they are counted.
        size: the length ``d`` of an update.
        counts_travel: whether a client's number of examples is its weight; otherwise all weigh 1.
    """

    stages: Stages
    transcript: Transcript
    ledger: Ledger
    size: int
    counts_travel: bool

    def send(
        self,
        number: int,
        clients: list[int],
        values: Tensor,
        sizes: list[int],
        *,
        bound: bool,
        heard: list[Tensor] | None = None,
    ) -> Iterator[tuple[tuple[int, ...], Payload]]:
        """Accepted uploads, after the stages of clients and of the server's arrival; none if nothing is acceptable.

        Args:
            number: the round.
            clients: the senders.
            values: ``(k, d)`` what they want to send, a row each.
            sizes: their numbers of examples.
            bound: whether they run what only clients enforce.
            heard: collects the rows as they were sent, or as trained if those are sealed.

        Raises:
            ConfigurationError: honest clients ask for more than the wire format can hold.
        """
        accepted = acceptable(values, size=self.size, ledger=self.ledger)
        if not bool(accepted.any()):
            return
        index = accepted.nonzero().flatten().tolist()
        ids = tuple(clients[i] for i in index)
        weights = torch.tensor([float(sizes[i]) for i in index], dtype=torch.float64, device=values.device)
        # Where a stage makes every client count once, the server accepts no other weight from anyone.
        weights = weights if self.counts_travel else torch.ones_like(weights)
        rows = values if len(index) == len(clients) else values[accepted]
        try:
            payload = self.stages.before_upload(Plain(rows, weights), number, ids, bound=bound)
        except ConfigurationError:
            if bound:
                raise
            # A controlled client asked for more than the wire format can hold: it is not heard this round.
            self.ledger.refuse("not in the wire format", len(ids))
            return
        if heard is not None:
            heard.append(payload.values if isinstance(payload, Plain) else rows)
        self.ledger.uploads += len(ids)
        self.ledger.upload_bytes += sum(payload.nbytes(row) for row in range(len(ids)))
        if self.transcript.wants(Topic.UPLOAD, number):
            for row, client in enumerate(ids):
                one = payload.rows([row])
                self.transcript.record(
                    Topic.UPLOAD,
                    number,
                    step=1,
                    sender=f"client:{client}",
                    receivers=frozenset({"server"}),
                    payload=one,
                    about={"examples": sizes[index[row]]} if self.counts_travel and in_clear(one) is not None else {},
                    opened=in_precision(self.stages.peek(one, number, (client,)), values.dtype),
                )
        yield ids, self.stages.on_arrival(payload, number, ids)
