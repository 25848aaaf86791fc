"""What a coalition sees: a projection of the transcript, copied, with no way back to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from fedsec.protocol.events import Event, Topic
from fedsec.protocol.payload import Plain, Sealed, in_clear, is_one_of

PUBLIC = "public"
EAVESDROPPER = "eavesdropper"
"""Who listens to every channel between parties, none of which is protected in transit; behind TLS an outsider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One event as its reader holds it: plain values, and nothing that leads to anyone else's.

    Attributes:
        round: the round, counted from 0.
        topic: what it is.
        sender: who sent it.
        values: ``(d,)`` update (local minus global) or model, a private copy.
        weight: the weight that travelled with it (number of examples, or 1).
        about: what the event says of the sender's data.
        where: ``(d,)`` bool, the coordinates that were left in clear beside sealed ones; ``None``: all were read. At
            the others an update is zero, and a model is what everybody was given before the first round.
    """

    round: int
    topic: Topic
    sender: str
    values: Tensor
    weight: float
    about: tuple[tuple[str, int], ...]
    where: Tensor | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The events that a coalition sent or received and can open, oldest first.

    Attributes:
        position: the coalition, as in ``server+key-holder``.
        events: what it sees.
    """

    position: str
    events: tuple[Seen, ...]

    def of(self, topic: Topic) -> tuple[Seen, ...]:
        """The events of one topic, oldest first."""
        return tuple(event for event in self.events if event.topic == topic)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Events that reached or could have reached a coalition and that it cannot read, by reason."""

    topic: Topic
    count: int
    reason: str


def coalition_of(position: str) -> frozenset[str]:
    """The parties of a position: ``server+client:3`` is two of them."""
    return frozenset(part.strip() for part in position.split("+") if part.strip())


def receives(event: Event, coalition: frozenset[str]) -> bool:
    """Whether one of the coalition sent, received or overheard the event, or it is public."""
    if PUBLIC in event.receivers:
        return True
    if EAVESDROPPER in coalition and event.receivers - {event.sender}:
        return True
    return any(party == event.sender or is_one_of(party, event.receivers) for party in coalition)


def _readable(event: Event, coalition: frozenset[str]) -> tuple[Plain | None, Tensor | None]:
    """What the coalition reads of an event that it holds, and where if only in part; ``None`` if it reads nothing."""
    if isinstance(event.payload, Plain):
        return event.payload, None
    if event.payload.opens(coalition):
        return event.opened, None
    part = event.payload.open_part if isinstance(event.payload, Sealed) else None
    return in_clear(event.payload), None if part is None else part.where


def implied_aggregates(view: View) -> tuple[Seen, ...]:
    """What two models in a row say: their difference is the aggregate between them (plain averaging).

    A curious client reads it so, with whatever noise the opener added; nobody had to send it the aggregate.
    """
    models = {event.round: event for event in view.of(Topic.BROADCAST)}
    return tuple(
        Seen(
            round=number,
            topic=Topic.AGGREGATE,
            sender="server",
            values=models[number + 1].values - models[number].values,
            weight=1.0,
            about=(),
            where=models[number + 1].where,
        )
        for number in sorted(models)
        if number + 1 in models
    )


def project(transcript: Iterable[Event], position: str, topics: Iterable[Topic]) -> tuple[View, list[Unreadable]]:
    """The view of a position, restricted to the topics that an attack asked for.

    Args:
        transcript: the recorded events.
        position: the coalition.
        topics: what the attack declared that it wants.

    Returns:
        The view, and what exists but cannot be read, with the reason.
    """
    coalition, wanted = coalition_of(position), frozenset(topics)
    seen: list[Seen] = []
    denied: dict[tuple[Topic, str], int] = {}
    for event in transcript:
        if event.topic not in wanted:
            continue
        clear, where = _readable(event, coalition)
        if not receives(event, coalition):
            reason = f"sent by {event.sender} to {', '.join(sorted(event.receivers))[:60]}, not to {position}"
            reason = reason if event.topic != Topic.UPLOAD else f"uploads go to the server, not to {position}"
        elif clear is None:
            reason = f"{event.payload.kind}: {position} receives it and cannot open it"
        else:
            seen.append(
                Seen(
                    round=event.round,
                    topic=event.topic,
                    sender=event.sender,
                    values=clear.values[0].detach().clone(),
                    weight=float(clear.weights[0]),
                    about=tuple(sorted(event.about.items())),
                    where=None if where is None else where.clone(),
                )
            )
            continue
        denied[event.topic, reason] = denied.get((event.topic, reason), 0) + 1
    return View(position, tuple(seen)), [Unreadable(t, n, why) for (t, why), n in denied.items()]
