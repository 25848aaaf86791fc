"""A client of secure aggregation: bytes in, bytes out, and no trust in the server (Bonawitz et al., CCS 2017)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .graph import neighbours_of, threshold_of
from .keys import (
    BOX_BYTES,
    KEY_BYTES,
    SIGNATURE_BYTES,
    Identity,
    box_key,
    close_box,
    exchange,
    mask_seed,
    open_box,
    sign,
    verify,
)
from .messages import ProtocolError, Reader, Step, Terms, identities, records
from .ring import SEED_BYTES, Words, add_mask, dtype_of
from .shamir import SHARE_BYTES, split


class Client:
    """One client in one round.

    Five messages: keys, shares, masked row, agreement, revelation. Every method may be called once, in this order;
    whoever breaks off, or is asked out of turn, says nothing more. Keys are fresh. A client never
    gives both shares of anybody, never helps to open a sum of fewer than ``terms.minimum`` clients or with fewer than
    the threshold of its own neighbours alive, and, if the server may cheat, never before it has seen that the
    threshold of its neighbours signed the same list of survivors.
    """

    def __init__(self, identity: Identity, terms: Terms, directory: Mapping[int, Ed25519PublicKey]) -> None:
        """Enter a round.

        Args:
            identity: of this client; remembers the round.
            terms: of the round.
            directory: whom the public-key infrastructure knows.

        Raises:
            ProtocolError: it took part in this round or a later one before.
        """
        if terms.round <= identity.last_round:
            raise ProtocolError(
                f"{identity.number} took part in round {identity.last_round} and enters only later ones"
            )
        identity.last_round = terms.round
        self.number = identity.number
        self._identity, self._terms, self._directory = identity, terms, directory
        self._agreement_key, self._mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(SEED_BYTES)
        self._next: Step | None = Step.KEYS
        self._peers: dict[int, tuple[bytes, bytes]] = {}
        self._shared: dict[int, bytes] = {}
        self._threshold = 0
        self._sharing: tuple[int, ...] = ()
        self._held: dict[int, tuple[bytes, bytes]] = {}
        self._survivors: tuple[int, ...] | None = None

    def advertise(self) -> bytes:
        """Two fresh public keys; signed if the server may cheat."""
        self._at(Step.KEYS, then=Step.SHARES)
        keys = self._agreement_key.public_key().public_bytes_raw() + self._mask_key.public_key().public_bytes_raw()
        signature = sign(self._identity, self._terms, b"keys", keys) if self._terms.active_server else b""
        return self._terms.message(Step.KEYS, self.number, keys + signature)

    def share(self, roster: bytes) -> bytes:
        """Shares of the own seed and the own mask key, one box for each neighbour.

        Raises:
            ProtocolError: too few clients, a neighbour missing or unknown, a signature or a key that cannot be.
        """
        self._at(Step.SHARES, then=Step.DELIVERY)
        terms = self._terms
        reader = Reader(terms.read(roster, Step.ROSTER)[1])
        everyone = reader.identities()
        if len(everyone) < terms.minimum or self.number not in everyone:
            raise ProtocolError(f"a round of {len(everyone)} clients; {self.number} takes part from {terms.minimum}")
        size = 2 * KEY_BYTES + (SIGNATURE_BYTES if terms.active_server else 0)
        told = dict(reader.records(size))
        expected = neighbours_of(self.number, everyone, degree=terms.degree, seed=terms.graph_seed)
        if tuple(sorted(told)) != expected:
            raise ProtocolError("the roster does not name the neighbours that follow from the round")
        own = self._mask_key.public_key().public_bytes_raw()
        for peer, content in told.items():
            keys, signature = content[: 2 * KEY_BYTES], content[2 * KEY_BYTES :]
            if terms.active_server:
                self._verify(peer, signature, b"keys", keys)
            self._peers[peer] = keys[:KEY_BYTES], keys[KEY_BYTES:]
        publics = {key for pair in self._peers.values() for key in pair}
        if len(publics) < 2 * len(self._peers) or own in publics:
            raise ProtocolError("two clients have one public key")
        self._threshold = threshold_of(len(expected), active_server=terms.active_server)
        points = [peer + 1 for peer in expected]
        seeds = split(self._seed, threshold=self._threshold, points=points)
        keys_ = split(self._mask_key.private_bytes_raw(), threshold=self._threshold, points=points)
        boxes = ((p, self._box(p, a + b)) for p, a, b in zip(expected, seeds, keys_, strict=True))
        return terms.message(Step.SHARES, self.number, records(boxes))

    def accept(self, delivery: bytes) -> int:
        """Open the boxes of the neighbours that shared; returns how many did.

        Raises:
            ProtocolError: too few neighbours, or a box that is not authentic.
        """
        self._at(Step.DELIVERY, then=Step.MASKED)
        terms = self._terms
        reader = Reader(terms.read(delivery, Step.DELIVERY)[1])
        self._sharing = reader.identities()
        boxes = dict(reader.records(BOX_BYTES))
        if set(boxes) != set(self._peers) & set(self._sharing) or self.number not in self._sharing:
            raise ProtocolError("the delivery does not hold one box from every neighbour that shared")
        if len(boxes) < self._threshold or len(self._sharing) < terms.minimum:
            raise ProtocolError(f"{len(boxes)} neighbours shared; {self._threshold} are needed")
        for peer, box in boxes.items():
            key = box_key(self._shared[peer], terms=terms, sender=peer, recipient=self.number)
            content = open_box(key, box, sender=peer, recipient=self.number)
            self._held[peer] = content[:SHARE_BYTES], content[SHARE_BYTES:]
        return len(self._held)

    def mask(self, row: Words) -> bytes:
        """The masked row: own mask, and one per neighbour that shared, which cancel pair by pair.

        Args:
            row: ``(length,)`` words.

        Raises:
            ValueError: the row has another length or type.
        """
        terms = self._terms
        if row.shape != (terms.length,) or row.dtype != dtype_of(terms.ring_bits):
            raise ValueError(f"a row of {row.shape} {row.dtype} where {terms.length} words were agreed")
        self._at(Step.MASKED, then=Step.AGREEMENT if terms.active_server else Step.REVELATION)
        masked = row.copy()
        add_mask(masked, self._seed)
        for peer in self._held:
            seed = mask_seed(self._mask_key, self._peers[peer][1], terms=terms, pair=(self.number, peer))
            add_mask(masked, seed, subtract=peer < self.number)
        return terms.message(Step.MASKED, self.number, masked.data.cast("B"))

    def agree(self, survivors: bytes) -> bytes:
        """A signature on the list of clients whose rows arrived; only if the server may cheat.

        Raises:
            ProtocolError: the list cannot be, or has too few clients.
        """
        self._at(Step.AGREEMENT, then=Step.REVELATION)
        reader = Reader(self._terms.read(survivors, Step.SURVIVORS)[1])
        alive = reader.identities()
        reader.end()
        self._check(alive)
        self._survivors = alive
        signature = sign(self._identity, self._terms, b"survivors", identities(alive))
        return self._terms.message(Step.AGREEMENT, self.number, signature)

    def unmask(self, request: bytes) -> bytes:
        """One share for each neighbour: of its seed if its row arrived, of its mask key if it vanished.

        Raises:
            ProtocolError: a client is called both alive and vanished, too few are alive, or they did not agree.
        """
        self._at(Step.REVELATION, then=None)
        reader = Reader(self._terms.read(request, Step.REQUEST)[1])
        alive, vanished = reader.identities(), reader.identities()
        if set(alive) & set(vanished):
            raise ProtocolError("asked for both shares of one client")
        if set(alive) | set(vanished) != set(self._sharing):
            raise ProtocolError("the request does not name everybody who shared, once")
        self._check(alive)
        signatures = dict(reader.records(SIGNATURE_BYTES))
        if self._terms.active_server:
            self._check_agreement(alive, signatures)
        # the position of the share, not a message, says what is given: nobody can be asked for the other one
        own = ((peer, self._held[peer][0 if peer in set(alive) else 1]) for peer in sorted(self._held))
        return self._terms.message(Step.REVELATION, self.number, records(own))

    @property
    def held(self) -> Mapping[int, tuple[bytes, bytes]]:
        """By neighbour the shares of its seed and mask key: what this client tells a coalition that it belongs to."""
        return self._held

    def _check(self, alive: tuple[int, ...]) -> None:
        near = len(set(alive) & set(self._held))
        if not set(alive) <= set(self._sharing) or self.number not in alive:
            raise ProtocolError("somebody is called alive who did not share, or this client is not")
        if len(alive) < self._terms.minimum:
            raise ProtocolError(f"a sum of {len(alive)} clients, fewer than {self._terms.minimum}")
        if near < self._threshold:
            raise ProtocolError(f"{near} neighbours are alive; {self._threshold} are needed")

    def _check_agreement(self, alive: tuple[int, ...], signatures: Mapping[int, bytes]) -> None:
        if alive != self._survivors:
            raise ProtocolError("the request names other survivors than were agreed on")
        for peer, signature in signatures.items():
            if peer not in self._peers or peer not in alive:
                raise ProtocolError(f"{peer} signed and is no neighbour that is alive")
            self._verify(peer, signature, b"survivors", identities(alive))
        if len(signatures) < self._threshold:
            raise ProtocolError(f"{len(signatures)} neighbours signed; {self._threshold} are needed")

    def _verify(self, peer: int, signature: bytes, purpose: bytes, content: bytes) -> None:
        if peer not in self._directory:
            raise ProtocolError(f"nobody knows {peer}")
        public = self._directory[peer]
        verify(public, signature, terms=self._terms, purpose=purpose, signer=peer, content=content)

    def _box(self, peer: int, content: bytes) -> bytes:
        self._shared[peer] = exchange(self._agreement_key, self._peers[peer][0])
        key = box_key(self._shared[peer], terms=self._terms, sender=self.number, recipient=peer)
        return close_box(key, content, sender=self.number, recipient=peer)

    def _at(self, step: Step, *, then: Step | None) -> None:
        """Whether it is the time for a step; what comes after one that fails is nothing."""
        expected, self._next = self._next, None
        if expected != step:
            raise ProtocolError(f"{self.number} was asked for {step.name} twice, or out of turn")
        self._next = then
