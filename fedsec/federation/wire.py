"""The wire: what is checked before an upload is accepted, what it weighs, and what is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsec.geometry import row_norms
from fedsec.protocol.events import EVENT_KIND_OF, Event, Topic
from fedsec.protocol.payload import Payload, Plain

MAX_NORM = 1e6
"""L2 norm above which an update is refused as absurd: far above any update that training gives, far below overflow."""


@dataclass
class Ledger:
    """What crossed the wire in one training.

    Attributes:
        uploads: accepted uploads.
        upload_bytes: bytes of all uploads, and of what clients sent beside them in a protocol of their stack.
        downloads: models sent to clients.
        download_bytes: bytes of all models sent, and of what else clients were sent in such a protocol.
        refused: uploads refused by reason.
        dropped: clients that vanished.
    """

    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    download_bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    dropped: int = 0

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count refused uploads."""
        if count:
            self.refused[reason] = self.refused.get(reason, 0) + count


def acceptable(values: Tensor, *, size: int, ledger: Ledger) -> Tensor:
    """Rows that may be accepted; the others are counted by reason.

    In clear the server checks. Behind a sealing stage nobody can, and it is the wire format that refuses: fixed
    point has no NaN and no infinity, its range is bounded, and a row has a fixed number of entries.

    Args:
        values: ``(k, d')`` what clients want to send.
        size: the length ``d`` that the model has.
        ledger: where refusals are counted.

    Returns:
        ``(k,)`` bool.
    """
    if values.dim() != 2 or values.shape[1] != size:
        ledger.refuse("wrong shape", values.shape[0] if values.dim() else 1)
        return torch.zeros(values.shape[0] if values.dim() else 1, dtype=torch.bool)
    norms = row_norms(values)
    nan, infinite = norms.isnan(), norms.isinf()
    huge = norms.isfinite() & (norms > MAX_NORM)
    for reason, rows in (("NaN", nan), ("Inf", infinite), ("huge norm", huge)):
        ledger.refuse(reason, int(rows.sum()))
    accepted: Tensor = ~(nan | infinite | huge)
    return accepted


@dataclass
class Transcript:
    """The events that some attack wants; nothing else is kept.

    Attributes:
        wanted: rounds by topic.
        events: recorded events, oldest first.
    """

    wanted: Mapping[Topic, frozenset[int]]
    events: list[Event] = field(default_factory=list)

    def wants(self, topic: Topic, round_index: int) -> bool:
        """Whether events of this topic and round are kept."""
        return round_index in self.wanted.get(topic, frozenset())

    def record(
        self,
        topic: Topic,
        round_index: int,
        *,
        step: int,
        sender: str,
        receivers: frozenset[str],
        payload: Payload,
        about: Mapping[str, int] | None = None,
        opened: Plain | None = None,
    ) -> None:
        """Keep one event if some attack wants it."""
        if not self.wants(topic, round_index):
            return
        event = Event(
            seq=len(self.events),
            time=float(round_index),
            round=round_index,
            step=step,
            kind=EVENT_KIND_OF[topic],
            topic=topic,
            sender=sender,
            receivers=receivers,
            payload=payload,
            about=dict(about or {}),
            opened=opened,
        )
        self.events.append(event)


def in_precision(opened: Plain | None, dtype: torch.dtype) -> Plain | None:
    """What was opened, in the precision of the federation; a stage may have summed in a finer one."""
    if opened is None or opened.values.dtype == dtype:
        return opened
    return Plain(opened.values.to(dtype), opened.weights)


def parties(clients: Sequence[int]) -> frozenset[str]:
    """Party names of client identities."""
    return frozenset(f"client:{client}" for client in clients)
