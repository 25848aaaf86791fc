"""The transcript: what crossed the wire, recorded at the boundary where it becomes readable."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedsec.protocol.payload import Payload, Plain


class EventKind(StrEnum):
    """The closed list of things that parties of any topology send each other."""

    IDENTITIES = "identities"
    INTERSECTION = "intersection"
    KEY = "key"
    MODEL = "model"
    UPDATE = "update"
    ACTIVATION = "activation"
    ACTIVATION_GRADIENT = "activation-gradient"
    RESIDUAL = "residual"
    SCORE = "score"
    LOGITS = "logits"
    VOTE = "vote"
    METRIC = "metric"
    SHARE = "share"
    CONTROL = "control"
    PUBLIC = "public"


class Topic(StrEnum):
    """The four events of a horizontal federation; each is an `EventKind` with fixed ends."""

    BROADCAST = "Broadcast"
    """(model, server to clients)"""
    UPLOAD = "Upload"
    """(update, client to server)"""
    AGGREGATE = "Aggregate"
    """(update, readable at whoever opens it), before any noise that its opener adds"""
    RELEASE = "Release"
    """(model, public)"""


EVENT_KIND_OF = {
    Topic.BROADCAST: EventKind.MODEL,
    Topic.UPLOAD: EventKind.UPDATE,
    Topic.AGGREGATE: EventKind.UPDATE,
    Topic.RELEASE: EventKind.MODEL,
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that was sent.

    Attributes:
        seq: position in the transcript.
        time: virtual time in rounds.
        round: the round, counted from 0.
        step: step inside the round.
        kind: what it is.
        topic: its name in a horizontal federation.
        sender: a party, as in ``server`` or ``client:3``.
        receivers: the parties that received it; ``public`` for everybody.
        payload: what was sent, one row.
        about: what the event says of the sender's data, public to its receivers (number of examples).
        opened: what the payload's key holders read, where it is not plain.
    """

    seq: int
    time: float
    round: int
    step: int
    kind: EventKind
    topic: Topic
    sender: str
    receivers: frozenset[str]
    payload: Payload
    about: dict[str, int]
    opened: Plain | None = None
