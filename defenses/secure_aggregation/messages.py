"""The bytes of the protocol: every message names its kind, session, round and sender, and nothing else opens it."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

_HEADER = struct.Struct("<4sB16sIQ")
_MAGIC = b"fsa1"
HEADER_BYTES = _HEADER.size


class ProtocolError(Exception):
    """A party refuses to go on: what it was sent does not fit what was agreed."""


class Aborted(ProtocolError):
    """The round ends without a sum: too few parties are left."""


class Step(IntEnum):
    """Kinds of messages, in the order in which they travel; odd ones go to the server."""

    KEYS = 1
    ROSTER = 2
    SHARES = 3
    DELIVERY = 4
    MASKED = 5
    SURVIVORS = 6
    AGREEMENT = 7
    REQUEST = 8
    REVELATION = 9


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What everybody knows and agreed on before the round; part of every key and signature.

    Attributes:
        session: 16 bytes, public, of this training.
        round: counted from 0.
        length: words of a row.
        ring_bits: 32 or 64.
        degree: neighbours of each client; ``None``: all others.
        minimum: fewest clients whose sum may be opened, at least 2.
        active_server: whether the server may cheat: keys are signed, and clients sign whom they believe alive.

    Raises:
        ValueError: a sum of fewer than two clients is no secret.
    """

    session: bytes
    round: int
    length: int
    ring_bits: int = 32
    degree: int | None = None
    minimum: int = 3
    active_server: bool = True

    def __post_init__(self) -> None:
        if self.minimum < 2 or len(self.session) != 16 or self.ring_bits not in (32, 64):
            raise ValueError("a round needs a minimum of 2 clients, a session of 16 bytes and a ring of 32 or 64 bits")

    @property
    def context(self) -> bytes:
        """What binds keys and signatures to this round and these terms."""
        numbers = (self.round, self.length, self.ring_bits, self.degree or 0, self.minimum, int(self.active_server))
        return b"fedsec secure aggregation 1" + self.session + struct.pack("<6Q", *numbers)

    @property
    def graph_seed(self) -> bytes:
        """The public randomness behind the graph of this round."""
        return self.session + struct.pack("<Q", self.round)

    def message(self, step: Step, sender: int, payload: bytes | memoryview) -> bytes:
        """A message of this round."""
        return _HEADER.pack(_MAGIC, step, self.session, self.round, sender) + payload

    def read(self, message: bytes | memoryview, step: Step) -> tuple[int, memoryview]:
        """Sender and payload.

        Raises:
            ProtocolError: it is of another kind, session or round.
        """
        if len(message) < HEADER_BYTES:
            raise ProtocolError("a message without a header")
        magic, kind, session, number, sender = _HEADER.unpack_from(message)
        if magic != _MAGIC or session != self.session or number != self.round:
            raise ProtocolError(f"a message of another session or round ({number}, not {self.round})")
        if kind != step:
            raise ProtocolError(f"a message of kind {kind} where {step.name} was expected")
        return sender, memoryview(message)[HEADER_BYTES:]


SERVER = (1 << 64) - 1
"""The sender of what the server sends."""


def identities(numbers: Iterable[int]) -> bytes:
    """A list of identities, ascending, with its length before it."""
    ordered = sorted(numbers)
    return struct.pack(f"<I{len(ordered)}Q", len(ordered), *ordered)


class Reader:
    """Reads a payload from its beginning to its end, and refuses one that is too short or too long."""

    def __init__(self, payload: memoryview) -> None:
        self._rest = payload

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > len(self._rest):
            raise ProtocolError("a message ends too early")
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)

    def number(self) -> int:
        """The next 8 bytes as a number."""
        return int.from_bytes(self.take(8), "little")

    def identities(self) -> tuple[int, ...]:
        """A list of identities.

        Raises:
            ProtocolError: it does not ascend.
        """
        count = int.from_bytes(self.take(4), "little")
        found = struct.unpack(f"<{count}Q", self.take(8 * count))
        if any(a >= b for a, b in itertools.pairwise(found)):
            raise ProtocolError("a list of identities that does not ascend")
        return found

    def records(self, size: int) -> Iterator[tuple[int, bytes]]:
        """``(identity, bytes)`` until the end, each identity once.

        Args:
            size: of the bytes.
        """
        seen: set[int] = set()
        while self._rest:
            identity = self.number()
            if identity in seen:
                raise ProtocolError(f"{identity} stands twice in a message")
            seen.add(identity)
            yield identity, self.take(size)

    def end(self) -> None:
        """Refuse what is left over."""
        if self._rest:
            raise ProtocolError("a message is too long")


def records(pairs: Iterable[tuple[int, bytes]]) -> bytes:
    """Identities with bytes of one size each."""
    return b"".join(struct.pack("<Q", identity) + content for identity, content in pairs)
