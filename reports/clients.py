"""Robust accuracy of every client of a stack, from the worst to the best, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .charts import Scale, Tick, axis
from .document import Audit, number_of, rows, table
from .format import interval, quantity, significant
from .overview import Anchors

MOST_CLIENTS = 120
"""Clients drawn of a stack; more cannot be told apart at the size it is drawn."""
MOST_STACKS = 12
WIDTH, HEIGHT = 300, 150
FRAME = (44.0, 10.0, 292.0, 122.0)


@dataclass(frozen=True, kw_only=True)
class ClientChart:
    """One stack: paths of dots and intervals, the accuracy of all inputs as a line, and the words.

    Attributes:
        stack: its label.
        anchor: where its costs stand.
        dots: path of the clients.
        whiskers: path of their intervals.
        overall: height of the line, if it is known.
        ticks: of the vertical axis.
        about: count, worst and best client.
        clients: number, value and interval of each that is drawn.
    """

    stack: str
    anchor: str
    dots: str
    whiskers: str
    overall: float | None
    ticks: tuple[Tick, ...]
    about: str
    clients: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ByClient:
    """The charts of all stacks in one norm.

    Attributes:
        size: of the perturbation.
        seed: of the federation whose clients they are.
        charts: of the stacks.
        left_out: stacks without one.
    """

    size: str
    seed: str
    charts: tuple[ClientChart, ...]
    left_out: int


def by_client(audit: Audit, anchors: Anchors, found: list[Mapping[str, Any]]) -> ByClient | None:
    """Charts of the rows of one norm; ``None`` where no client is told apart."""
    known = [row for row in found if rows(table(row, "by_client"), "clients")]
    if not known:
        return None
    first = table(known[0], "by_client")
    return ByClient(
        size=significant(number_of(first, "size")),
        seed=str(first.get("seed")),
        charts=tuple(_chart(anchors, row) for row in known[:MOST_STACKS]),
        left_out=len(known[MOST_STACKS:]),
    )


def _chart(anchors: Anchors, row: Mapping[str, Any]) -> ClientChart:
    stack, made = str(row.get("stack")), table(row, "by_client")
    clients = rows(made, "clients")
    every = len(clients)
    if every > MOST_CLIENTS:
        clients = [clients[round(k * (every - 1) / (MOST_CLIENTS - 1))] for k in range(MOST_CLIENTS)]
    across = Scale(-0.5, len(clients) - 0.5, FRAME[0], FRAME[2])
    down = Scale(0.0, 1.0, FRAME[3], FRAME[1])
    dots, whiskers, words = [], [], []
    for place, client in enumerate(clients):
        value, low, high = (number_of(client, key) for key in ("value", "low", "high"))
        if value is None:
            continue
        at = across.place(place)
        dots.append(f"M{at:g} {down.place(value):g}h0")
        if low is not None and high is not None:
            whiskers.append(f"M{at:g} {down.place(low):g}V{down.place(high):g}")
        words.append((f"client {client.get('client')}", quantity(value, "share"), interval(low, high, "share")))
    same = (p for p in rows(row, "points") if number_of(p, "size") == number_of(made, "size"))
    overall = next((v for p in same if (v := number_of(p, "value")) is not None), None)
    ends = (words[0], words[-1]) if words else ()
    return ClientChart(
        stack=stack,
        anchor=anchors.stack(stack),
        dots="".join(dots),
        whiskers="".join(whiskers),
        overall=None if overall is None else down.place(overall),
        ticks=axis(down, "share", 5),
        about=f"{every} clients"
        + "".join(
            f"; {what} {value} ({name})" for what, (name, value, _) in zip(("worst", "best"), ends, strict=False)
        ),
        clients=tuple(words),
    )
