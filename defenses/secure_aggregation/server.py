"""The server of secure aggregation: forwards, adds up, and takes away the masks of the sum (Bonawitz et al. 2017)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .graph import neighbours_of, threshold_of
from .keys import BOX_BYTES, KEY_BYTES, SIGNATURE_BYTES, mask_seed
from .messages import SERVER, Aborted, ProtocolError, Reader, Step, Terms, identities, records
from .ring import Words, add_mask, dtype_of
from .shamir import SHARE_BYTES, combine


class MaskedSum:
    """The sum of masked rows as they arrive: one row of memory, whatever the number of clients.

    Attributes:
        total: ``(length,)`` words.
        senders: whose rows are in it.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.total: Words = np.zeros(terms.length, dtype_of(terms.ring_bits))
        self.senders: set[int] = set()

    def add(self, message: bytes | memoryview) -> None:
        """Add one masked row.

        Raises:
            ProtocolError: a row of another length, or a second one of a sender.
        """
        sender, payload = self._terms.read(message, Step.MASKED)
        if len(payload) != self.total.nbytes:
            raise ProtocolError(f"a masked row of {len(payload)} bytes where {self.total.nbytes} were agreed")
        if sender in self.senders:
            raise ProtocolError(f"a second masked row of {sender}")
        self.senders.add(sender)
        self.total += np.frombuffer(payload, self.total.dtype)


class Server:
    """The server in one round. Each ``receive`` may be called for every client that answers; the rest vanished.

    Attributes:
        sum: what arrived.
        recovered: clients whose pairwise masks had to be taken away.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._keys: dict[int, bytes] = {}
        self._neighbours: dict[int, tuple[int, ...]] = {}
        self._boxes: dict[int, dict[int, bytes]] = {}
        self._signatures: dict[int, bytes] = {}
        self._revealed: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        self._common: dict[int, tuple[frozenset[int], ...]] = {}
        self.sum = MaskedSum(terms)
        self.recovered: tuple[int, ...] = ()

    @property
    def sharing(self) -> frozenset[int]:
        """Who sent shares."""
        return frozenset(self._boxes)

    def neighbours(self, client: int) -> tuple[int, ...]:
        """The neighbours of a client that sent keys."""
        return self._neighbours[client]

    def mask_key(self, client: int) -> bytes:
        """The public key by which a client agrees on masks."""
        return self._keys[client][KEY_BYTES : 2 * KEY_BYTES]

    def receive_keys(self, message: bytes) -> None:
        """Keys of one client."""
        size = 2 * KEY_BYTES + (SIGNATURE_BYTES if self._terms.active_server else 0)
        sender, payload = self._terms.read(message, Step.KEYS)
        if sender in self._keys or len(payload) != size:
            raise ProtocolError(f"keys of {sender} twice, or of a wrong length")
        self._keys[sender] = bytes(payload)

    def roster(self) -> dict[int, bytes]:
        """Who takes part, and to each client the keys of its neighbours.

        Raises:
            Aborted: fewer than the minimum.
        """
        self._enough(len(self._keys))
        everyone = sorted(self._keys)
        head = identities(everyone)
        for client in everyone:
            near = neighbours_of(client, everyone, degree=self._terms.degree, seed=self._terms.graph_seed)
            self._neighbours[client] = near
        return {c: self._send(Step.ROSTER, head + records((v, self._keys[v]) for v in self._neighbours[c]))
                for c in everyone}  # fmt: skip

    def receive_shares(self, message: bytes) -> None:
        """The boxes of one client."""
        sender, payload = self._terms.read(message, Step.SHARES)
        boxes = dict(Reader(payload).records(BOX_BYTES))
        if sender in self._boxes or tuple(sorted(boxes)) != self._neighbours.get(sender):
            raise ProtocolError(f"shares of {sender} twice, or not for its neighbours")
        self._boxes[sender] = boxes

    def deliver(self) -> dict[int, bytes]:
        """To each client that shared: who shared, and its boxes.

        Raises:
            Aborted: fewer than the minimum.
        """
        self._enough(len(self._boxes))
        head = identities(self._boxes)
        return {c: self._send(Step.DELIVERY, head + records((v, self._boxes[v].pop(c)) for v in self._sharing_near(c)))
                for c in sorted(self._boxes)}  # fmt: skip

    def receive_masked(self, message: bytes | memoryview) -> None:
        """The masked row of one client; see `MaskedSum.add`."""
        sender, _ = self._terms.read(message, Step.MASKED)
        if sender not in self._boxes:
            raise ProtocolError(f"a masked row of {sender}, who shared nothing")
        self.sum.add(message)

    def survivors(self) -> dict[int, bytes]:
        """To each client whose row arrived: whose rows did; asked for only if the server may cheat.

        Raises:
            Aborted: fewer than the minimum.
        """
        self._enough(len(self.sum.senders))
        message = self._send(Step.SURVIVORS, identities(self.sum.senders))
        return dict.fromkeys(sorted(self.sum.senders), message)

    def receive_agreement(self, message: bytes) -> None:
        """The signature of one client."""
        sender, payload = self._terms.read(message, Step.AGREEMENT)
        if sender not in self.sum.senders or len(payload) != SIGNATURE_BYTES:
            raise ProtocolError(f"a signature of {sender}, whose row did not arrive, or of a wrong length")
        self._signatures[sender] = bytes(payload)

    def request(self) -> dict[int, bytes]:
        """To each client that is still there: who is alive, who vanished, and the signatures of its neighbours.

        Raises:
            Aborted: fewer than the minimum.
        """
        alive = self.sum.senders
        self._enough(len(alive))
        head = identities(alive) + identities(set(self._boxes) - alive)
        there = self._signatures if self._terms.active_server else alive
        return {
            c: self._send(
                Step.REQUEST,
                head + records((v, self._signatures[v]) for v in self._neighbours[c] if v in self._signatures),
            )
            for c in sorted(there)
        }

    def receive_revelation(self, message: bytes) -> None:
        """The shares that one client gives."""
        sender, payload = self._terms.read(message, Step.REVELATION)
        given = dict(Reader(payload).records(SHARE_BYTES))
        if sender not in self.sum.senders or not set(given) <= set(self._neighbours[sender]):
            raise ProtocolError(f"shares from {sender}, whose row did not arrive, or of strangers")
        for client, share in given.items():
            self._revealed[client][sender + 1] = share

    def finish(self) -> Words:
        """The sum of the rows that arrived, without masks; `total` is changed in place.

        Raises:
            Aborted: some secret cannot be recovered: fewer shares than the threshold.
            ProtocolError: shares that are not of one secret, or of another key than was advertised.
        """
        alive = self.sum.senders
        for client in sorted(alive):
            add_mask(self.sum.total, self._open(client), subtract=True)
        recovered = []
        for client in sorted(set(self._boxes) - alive):
            near = [v for v in self._sharing_near(client) if v in alive]
            if near:
                self._forget(client, near, self._open(client))
                recovered.append(client)
        self.recovered = tuple(recovered)
        return self.sum.total

    def _forget(self, vanished: int, near: list[int], secret: bytes) -> None:
        """Take away what the neighbours of a vanished client added for it."""
        key = X25519PrivateKey.from_private_bytes(secret)
        if key.public_key().public_bytes_raw() != self.mask_key(vanished):
            raise ProtocolError(f"the shares of {vanished} open another key than it advertised")
        for peer in near:
            seed = mask_seed(key, self.mask_key(peer), terms=self._terms, pair=(vanished, peer))
            # the peer subtracted the mask if the vanished client stands before it
            add_mask(self.sum.total, seed, subtract=peer < vanished)

    def _open(self, client: int) -> bytes:
        threshold = threshold_of(len(self._neighbours[client]), active_server=self._terms.active_server)
        shares: Mapping[int, bytes] = self._revealed[client]
        # clients of whom the same holders are asked share Lagrange's coefficients
        common = next((group for group in self._groups(threshold) if group <= shares.keys()), None)
        if common is not None:
            shares = {point: shares[point] for point in common}
        if len(shares) < threshold:
            raise Aborted(f"{len(shares)} shares of {client} are left; {threshold} are needed")
        try:
            return combine(shares, threshold=threshold)
        except ValueError as error:
            raise ProtocolError(f"{client}: {error}") from None

    def _groups(self, threshold: int) -> tuple[frozenset[int], ...]:
        """The first and the last holders that revealed shares: in a complete graph most clients are missing in one."""
        if self._common.get(threshold) is None:
            points = sorted({point for shares in self._revealed.values() for point in shares})
            self._common[threshold] = (frozenset(points[:threshold]), frozenset(points[-threshold:]))
        return self._common[threshold]

    def _sharing_near(self, client: int) -> list[int]:
        return [v for v in self._neighbours[client] if v in self._boxes]

    def _enough(self, count: int) -> None:
        if count < self._terms.minimum:
            raise Aborted(f"{count} clients are left; {self._terms.minimum} are the minimum")

    def _send(self, step: Step, payload: bytes) -> bytes:
        return self._terms.message(step, SERVER, payload)
