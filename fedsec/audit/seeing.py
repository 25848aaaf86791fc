"""What an attack is given of a transcript, or why it is given nothing."""

from __future__ import annotations

from typing import Any

from fedsec.federation.setup import FederationSetup
from fedsec.protocol.events import Event, Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Adversary, Attack
from fedsec.protocol.view import View, coalition_of, implied_aggregates, project


def see(
    setup: FederationSetup,
    attack: Attack | Adversary,
    position: str,
    events: tuple[Event, ...],
    document: dict[str, Any],
) -> tuple[View | None, tuple[Event, ...]]:
    """The view of the first wanted topic that the position can read, and the events that it was made of.

    Args:
        setup: the federation.
        attack: who looks.
        position: the coalition whose view it is.
        events: of the rounds that the attack wants.
        document: of the cell; gets notes, and the reason if nothing can be read (the view is then ``None``).

    Raises:
        NotApplicable: no wanted event exists in this federation.
    """
    reasons: list[str] = []
    exists = False
    rounds = rounds_of(attack, setup)
    # A coalition does not attack its own members' uploads.
    own = coalition_of(position)
    events = tuple(e for e in events if e.topic != Topic.UPLOAD or e.sender not in own)
    for topic in attack.wants:
        there = tuple(event for event in events if event.topic == topic)
        exists = exists or bool(there)
        view, denied = project(there, position, [topic])
        reasons.extend(f"{d.count} x {d.topic}: {d.reason}" for d in denied if d.reason not in "".join(reasons))
        if view.events:
            wanted = {topic, *attack.also_sees}
            whole, _ = project(events, position, wanted)
            document["notes"].extend(_left_open(view))
            return whole, tuple(event for event in events if event.topic in wanted)
    if Topic.AGGREGATE in attack.wants and setup.server.name == "mean":
        models, _ = project(events, position, [Topic.BROADCAST])
        implied = implied_aggregates(models)
        implied = tuple(event for event in implied if event.round in rounds)
        if implied:
            document["notes"].append("The aggregates are differences of the models that this position was sent.")
            kept = tuple(e for e in events if e.topic in (Topic.AGGREGATE, Topic.BROADCAST))
            return View(position, (*models.events, *implied)), kept
    if not exists:
        raise NotApplicable(f"no {' or '.join(attack.wants)} exists in this federation")
    document["status"] = "blocked"
    document["reason"] = "; ".join(_summary(reasons))
    return None, events


def briefly(position: str) -> str:
    """A coalition of many identities by the first of them."""
    parties = position.split("+")
    return position if len(parties) <= 8 else f"{parties[0]} and {len(parties) - 1} more identities"


def in_reach(event: Event, rounds: frozenset[int]) -> bool:
    """An attacked round's event, the release, or the model after an attacked round (which tells its aggregate)."""
    follows = event.topic == Topic.BROADCAST and event.round - 1 in rounds
    return event.round in rounds or event.topic == Topic.RELEASE or follows


def rounds_of(attack: Attack | Adversary, setup: FederationSetup) -> frozenset[int]:
    """The rounds that an attack wants, of those that there are."""
    return frozenset(r for r in attack.rounds(setup.rounds) if 0 <= r < setup.rounds)


def ledger_of(position: str, view: View | None, attack: Attack | Adversary) -> dict[str, Any]:
    """What the attack was given: printed in the report."""
    counts: dict[str, dict[str, Any]] = {}
    for event in view.events if view else ():
        row = counts.setdefault(
            event.topic.value, {"topic": event.topic.value, "count": 0, "rounds": set(), "bytes": 0}
        )
        row["count"] += 1
        row["rounds"].add(event.round)
        row["bytes"] += event.values.numel() * event.values.element_size()
    rows = [{**row, "rounds": sorted(row["rounds"])} for row in counts.values()]
    return {"position": position, "events": rows, "knowledge": sorted(k.value for k in attack.knows())}


def _left_open(view: View) -> list[str]:
    """What must stand beside a result that is about a part of each update."""
    shares = [float(event.where.double().mean()) for event in view.events if event.where is not None]
    if not shares:
        return []
    return [
        f"Attacked was only what is left open: {shares[0]:.1%} of the coordinates cross in clear, and this position "
        "cannot open the others."
    ]


def _summary(reasons: list[str]) -> list[str]:
    return list(dict.fromkeys(reasons))[:4]
