"""One round with all parties in one process: each holds its own state, and all they exchange is bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .client import Client
from .graph import threshold_of
from .keys import Identity, mask_seed
from .messages import HEADER_BYTES, Aborted, ProtocolError, Step, Terms
from .ring import Words, add_mask, dtype_of
from .server import MaskedSum, Server
from .shamir import combine

T = TypeVar("T")


@dataclass
class Traffic:
    """Bytes of the protocol by kind of message; masked rows count as `Step.MASKED`."""

    up: Counter[Step] = field(default_factory=Counter)
    down: Counter[Step] = field(default_factory=Counter)

    @property
    def beside_rows(self) -> int:
        """Bytes that clients sent, without the masked rows."""
        return sum(self.up.values()) - self.up[Step.MASKED]

    @property
    def to_clients(self) -> int:
        """Bytes that clients were sent."""
        return sum(self.down.values())


class Session:
    """One round of secure aggregation between simulated clients and one server.

    Attributes:
        terms: of the round.
        clients: by identity.
        server: the server.
        traffic: what crossed the wire.
    """

    def __init__(self, terms: Terms, participants: Mapping[int, Identity]) -> None:
        """Everybody enters the round.

        Args:
            terms: of the round.
            participants: by identity; each knows the public signing keys of all others.
        """
        self.terms = terms
        directory = (
            {number: identity.public for number, identity in participants.items()} if terms.active_server else {}
        )
        self.clients = {number: Client(who, terms, directory) for number, who in sorted(participants.items())}
        self.server = Server(terms)
        self.traffic = Traffic()
        self._ready: set[int] = set()

    def set_up(self, *, without_keys: Iterable[int] = (), without_shares: Iterable[int] = ()) -> None:
        """Exchange keys and shares.

        Args:
            without_keys: clients that vanish before they send keys.
            without_shares: clients that vanish before they send shares.

        Raises:
            Aborted: fewer than the minimum are left.
        """
        silent = set(without_keys)
        for number, client in self.clients.items():
            if number not in silent:
                self.server.receive_keys(self._up(Step.KEYS, client.advertise()))
        silent |= set(without_shares)
        for number, roster in self._down(Step.ROSTER, self.server.roster()).items():
            if number not in silent:
                self.server.receive_shares(self._up(Step.SHARES, self.clients[number].share(roster)))
        for number, delivery in self._down(Step.DELIVERY, self.server.deliver()).items():
            if _or_nothing(self.clients[number].accept, delivery):
                self._ready.add(number)

    def mask(self, number: int, row: Words) -> bytes | None:
        """What a client uploads; ``None`` if it takes no part: it did not share, or too few of its neighbours did."""
        if number not in self._ready:
            return None
        return self._up(Step.MASKED, self.clients[number].mask(row))

    def finish(
        self, arrived: MaskedSum, *, without_agreement: Iterable[int] = (), without_shares: Iterable[int] = ()
    ) -> Words:
        """The sum of the rows that arrived; its words are changed in place.

        Args:
            arrived: masked rows.
            without_agreement: clients that vanish after their row arrived.
            without_shares: clients that vanish before they reveal shares.

        Raises:
            Aborted: too few are left.
        """
        server, silent = self.server, set(without_agreement)
        server.sum = arrived
        if self.terms.active_server:
            for number, survivors in self._down(Step.SURVIVORS, server.survivors()).items():
                answer = None if number in silent else _or_nothing(self.clients[number].agree, survivors)
                if answer is not None:
                    server.receive_agreement(self._up(Step.AGREEMENT, answer))
        silent |= set(without_shares)
        for number, request in self._down(Step.REQUEST, server.request()).items():
            answer = None if number in silent else _or_nothing(self.clients[number].unmask, request)
            if answer is not None:
                server.receive_revelation(self._up(Step.REVELATION, answer))
        return server.finish()

    def reveal(self, message: bytes) -> Words:
        """What the server reads of one masked row with the help of as many colluding neighbours as the threshold.

        Raises:
            Aborted: fewer neighbours hold shares.
        """
        sender, _ = self.terms.read(message, Step.MASKED)
        neighbours = self.server.neighbours(sender)
        threshold = threshold_of(len(neighbours), active_server=self.terms.active_server)
        near = [v for v in neighbours if v in self.server.sharing]
        helpers = [v for v in near if sender in self.clients[v].held][:threshold]
        told = {v: self.clients[v].held[sender] for v in helpers}
        publics = {v: self.server.mask_key(v) for v in near}
        return unmask_row(message, told, publics, terms=self.terms, threshold=threshold)

    def _up(self, step: Step, message: bytes) -> bytes:
        self.traffic.up[step] += len(message)
        return message

    def _down(self, step: Step, messages: dict[int, bytes]) -> dict[int, bytes]:
        self.traffic.down[step] += sum(map(len, messages.values()))
        return messages


def unmask_row(
    message: bytes,
    told: Mapping[int, tuple[bytes, bytes]],
    publics: Mapping[int, bytes],
    *,
    terms: Terms,
    threshold: int,
) -> Words:
    """The row behind one masked row, from both shares of its sender: what only a coalition can have.

    Args:
        message: the masked row.
        told: for each colluding neighbour its shares of the sender's seed and mask key.
        publics: the public mask keys of the sender's neighbours that shared.
        terms: of the round.
        threshold: of the sender's neighbourhood.

    Raises:
        Aborted: fewer shares than the threshold.
    """
    sender, payload = terms.read(message, Step.MASKED)
    if len(told) < threshold:
        raise Aborted(f"{len(told)} shares of {sender}; {threshold} are needed")
    row: Words = np.frombuffer(payload, dtype_of(terms.ring_bits)).copy()
    seed = combine({v + 1: shares[0] for v, shares in told.items()}, threshold=threshold)
    secret = combine({v + 1: shares[1] for v, shares in told.items()}, threshold=threshold)
    add_mask(row, seed, subtract=True)
    key = X25519PrivateKey.from_private_bytes(secret)
    for peer, public in publics.items():
        add_mask(row, mask_seed(key, public, terms=terms, pair=(sender, peer)), subtract=peer > sender)
    return row


def row_bytes(length: int, ring_bits: int) -> int:
    """Bytes of one masked row on the wire."""
    return HEADER_BYTES + length * ring_bits // 8


def _or_nothing(answer: Callable[[bytes], T], message: bytes) -> T | None:
    """The answer of a client, or none where it refuses: to the server that is a client that vanished."""
    try:
        return answer(message)
    except ProtocolError:
        return None


__all__ = ["Aborted", "Session", "Traffic", "row_bytes", "unmask_row"]
