"""Transcripts as stored results: what was recorded, and what of it is readable by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedsec.protocol.events import EVENT_KIND_OF, Event, Topic
from fedsec.protocol.payload import AdditiveScheme, Masked, OpenPart, Payload, Plain, Sealed


class _NoScheme:
    """A stored ciphertext is evidence of what was sent; nobody computes with it again."""

    def start(self, row: bytes) -> Any:
        raise TypeError("a stored ciphertext cannot be summed")

    def add(self, accumulator: Any, row: bytes) -> Any:
        raise TypeError("a stored ciphertext cannot be summed")

    def finish(self, accumulator: Any) -> bytes:
        raise TypeError("a stored ciphertext cannot be summed")


_STORED: AdditiveScheme = _NoScheme()


@dataclass(frozen=True)
class Packed:
    """A transcript as one JSON-able document and named tensors."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]


def pack(events: Sequence[Event]) -> Packed:
    """Events to a document and tensors. Of sealed and masked rows: the size, who opens them, and what they read."""
    rows: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for event in events:
        clear = event.payload if isinstance(event.payload, Plain) else event.opened
        if clear is not None:
            tensors[f"{event.seq}/values"] = clear.values
            tensors[f"{event.seq}/weights"] = clear.weights
        part = event.payload.open_part if isinstance(event.payload, Sealed) else None
        if part is not None:
            tensors[f"{event.seq}/open/values"] = part.plain.values
            tensors[f"{event.seq}/open/weights"] = part.plain.weights
            tensors[f"{event.seq}/open/where"] = part.where
        holders = event.payload.holders if isinstance(event.payload, Sealed) else frozenset()
        masked = {"masked": _masking(event.payload)} if isinstance(event.payload, Masked) else {}
        rows.append(
            {
                **masked,
                "seq": event.seq,
                "round": event.round,
                "step": event.step,
                "topic": event.topic.value,
                "sender": event.sender,
                "receivers": sorted(event.receivers),
                "about": event.about,
                "kind": event.payload.kind.value,
                "bytes": event.payload.nbytes(0),
                "holders": sorted(holders),
            }
        )
    return Packed({"events": rows}, tensors)


def unpack(document: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Event, ...]:
    """Events from what `pack` made."""
    events: list[Event] = []
    for row in document["events"]:
        seq = int(row["seq"])
        clear = None
        if f"{seq}/values" in tensors:
            clear = Plain(tensors[f"{seq}/values"], tensors[f"{seq}/weights"])
        payload: Payload
        if row["kind"] == "plain" and clear is not None:
            payload, opened = clear, None
        elif row["kind"] == "masked":
            payload, opened = _masked(row["masked"]), clear
        else:
            part = _open_part(f"{seq}/open", tensors)
            payload, opened = Sealed((b"",), _STORED, frozenset(row["holders"]), open_part=part), clear
        topic = Topic(row["topic"])
        events.append(
            Event(
                seq=seq,
                time=float(row["round"]),
                round=int(row["round"]),
                step=int(row["step"]),
                kind=EVENT_KIND_OF[topic],
                topic=topic,
                sender=str(row["sender"]),
                receivers=frozenset(row["receivers"]),
                payload=payload,
                about={str(k): int(v) for k, v in row["about"].items()},
                opened=opened,
            )
        )
    return tuple(events)


def _open_part(key: str, tensors: dict[str, Tensor]) -> OpenPart | None:
    if f"{key}/values" not in tensors:
        return None
    return OpenPart(Plain(tensors[f"{key}/values"], tensors[f"{key}/weights"]), tensors[f"{key}/where"])


def _masking(payload: Masked) -> dict[str, Any]:
    return {
        "group": sorted(payload.group),
        "threshold": payload.threshold,
        "sharers": [sorted(sharers) for sharers in payload.sharers],
        "readers": sorted(payload.readers),
        "is_sum": payload.is_sum,
    }


def _masked(said: dict[str, Any]) -> Masked:
    return Masked(
        (b"",),
        _STORED,
        frozenset(said["group"]),
        said["threshold"],
        tuple(frozenset(sharers) for sharers in said["sharers"]),
        frozenset(said["readers"]),
        bool(said["is_sum"]),
    )
