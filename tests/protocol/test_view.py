"""A passive attack cannot reach what its position does not see."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.errors import NotKnownError
from fedsec.protocol.events import EVENT_KIND_OF, Event, Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.payload import Plain, Sealed
from fedsec.protocol.view import coalition_of, project
from fedsec.threat import Knowledge

PARTIES = ("server", "client:0", "client:1", "key-holder")


class NoScheme:
    def start(self, row: bytes) -> Any: ...

    def add(self, accumulator: Any, row: bytes) -> Any: ...

    def finish(self, accumulator: Any) -> bytes:
        return b""


def event(seq: int, topic: Topic, sender: str, receivers: set[str], holders: set[str] | None = None) -> Event:
    plain = Plain(torch.full((1, 3), float(1000 + seq)), torch.ones(1))
    payload: Any = plain if holders is None else Sealed((b"cipher",), NoScheme(), frozenset(holders))
    return Event(
        seq=seq,
        time=0.0,
        round=0,
        step=0,
        kind=EVENT_KIND_OF[topic],
        topic=topic,
        sender=sender,
        receivers=frozenset(receivers),
        payload=payload,
        about={},
        opened=None if holders is None else plain,
    )


def reachable(thing: Any, depth: int = 7, seen: set[int] | None = None) -> Iterator[Any]:
    """Everything that public attributes, items and elements lead to."""
    seen = set() if seen is None else seen
    if depth < 0 or id(thing) in seen or isinstance(thing, types.ModuleType | type | int | float | str | bytes):
        return
    seen.add(id(thing))
    yield thing
    if isinstance(thing, torch.Tensor):
        if thing._base is not None:
            yield from reachable(thing._base, depth - 1, seen)
        return
    if isinstance(thing, dict):
        children = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        children = list(thing)
    else:
        names = [name for name in dir(thing) if not name.startswith("_")]
        children = [getattr(thing, name, None) for name in names]
    for child in children:
        yield from reachable(child, depth - 1, seen)


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(list(Topic)),
            st.sampled_from(PARTIES),
            st.sets(st.sampled_from([*PARTIES, "client", "public"]), min_size=1, max_size=2),
            st.none() | st.sets(st.sampled_from(["client", "key-holder", "client:1"]), min_size=1),
        ),
        max_size=8,
    ),
    position=st.lists(st.sampled_from([*PARTIES, "outsider", "eavesdropper"]), min_size=1, max_size=2, unique=True),
    topics=st.sets(st.sampled_from(list(Topic)), min_size=1),
)
def test_a_view_holds_what_the_position_sent_or_received_and_can_open_and_nothing_else(rows, position, topics) -> None:
    events = [event(i, *row) for i, row in enumerate(rows)]
    view, denied = project(events, "+".join(position), topics)
    roles = set(position) | {p.partition(":")[0] for p in position}
    expected = set()
    for e in events:
        holds = e.sender in position or bool(roles & e.receivers) or "public" in e.receivers
        holds = holds or ("eavesdropper" in position and bool(e.receivers - {e.sender}))
        opens = not isinstance(e.payload, Sealed) or bool(roles & e.payload.holders)
        if e.topic in topics and holds and opens:
            expected.add(1000.0 + e.seq)
    found = {float(t.flatten()[0]) for t in reachable(view) if isinstance(t, torch.Tensor)}
    assert found == expected
    assert not any(isinstance(thing, Event | Plain | Sealed) for thing in reachable(view))
    assert sum(d.count for d in denied) == sum(e.topic in topics for e in events) - len(expected)


def test_a_view_is_a_copy() -> None:
    original = event(0, Topic.UPLOAD, "client:0", {"server"})
    view, _ = project([original], "server", [Topic.UPLOAD])
    view.events[0].values.zero_()
    assert float(original.payload.values[0, 0]) == 1000.0


def test_a_view_cannot_be_changed() -> None:
    view, _ = project([], "server", [Topic.UPLOAD])
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.events = ()  # type: ignore[misc]


def test_a_position_is_a_coalition() -> None:
    assert coalition_of("server+client:3") == {"server", "client:3"}


def facts(knowledge: frozenset[Knowledge]) -> PublicFacts:
    from fedsec.data.embedded import Digits
    from fedsec.models.flat import FlatModel

    model = FlatModel.of(torch.nn.Linear(2, 2), task="classification", name="linear")
    return PublicFacts(
        info=Digits.info,
        model=model,
        initial=model.vector(),
        stack=(),
        population=1,
        cohort=1,
        rounds=1,
        rule="mean",
        knowledge=knowledge,
    )


@pytest.mark.parametrize("name", ["local", "auxiliary", "simulate", "candidates", "test_inputs"])
def test_undeclared_knowledge_is_out_of_reach(name: str) -> None:
    with pytest.raises(NotKnownError, match="does not declare"):
        getattr(facts(frozenset()), name)
    with pytest.raises(NotKnownError, match="does not declare"):
        facts(frozenset()).labels_of(0, "client:0")
