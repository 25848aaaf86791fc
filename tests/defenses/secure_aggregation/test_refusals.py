"""What an honest client does not do, whatever the server asks for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from secure_aggregation_round import people, rows_of, terms_of

from fedsec.defenses.secure_aggregation.client import Client
from fedsec.defenses.secure_aggregation.keys import KEY_BYTES, Identity, sign
from fedsec.defenses.secure_aggregation.messages import SERVER, ProtocolError, Step, Terms, identities, records
from fedsec.defenses.secure_aggregation.server import Server

N = 7


class Play:
    """Clients, the server's state, and every message so far, so that a test can send something else."""

    def __init__(self, terms: Terms, who: dict[int, Identity] | None = None, n: int = N) -> None:
        self.terms, self.people = terms, who or people(n)
        self.directory = {number: identity.public for number, identity in self.people.items()}
        self.clients = {number: Client(i, terms, self.directory) for number, i in self.people.items()}
        self.server = Server(terms)
        self.keys = {number: client.advertise() for number, client in self.clients.items()}
        for message in self.keys.values():
            self.server.receive_keys(message)
        self.rosters = self.server.roster()

    def share(self) -> None:
        self.shares = {number: self.clients[number].share(self.rosters[number]) for number in self.clients}
        for message in self.shares.values():
            self.server.receive_shares(message)
        self.deliveries = self.server.deliver()

    def upload(self, *, without: tuple[int, ...] = ()) -> None:
        rows = rows_of(len(self.clients), self.terms)
        for number, client in self.clients.items():
            client.accept(self.deliveries[number])
            if number not in without:
                self.server.receive_masked(client.mask(rows[number]))

    def sign(self) -> None:
        for number, message in self.server.survivors().items():
            self.server.receive_agreement(self.clients[number].agree(message))
        self.requests = self.server.request()


def played(*, without: tuple[int, ...] = (), **changes: object) -> Play:
    play = Play(terms_of(**changes))
    play.share()
    play.upload(without=without)
    return play


def request(play: Play, alive: list[int], vanished: list[int], signers: list[int] | None = None) -> bytes:
    """A request that a server makes up; ``signers`` of any list that a cheating server can get."""
    head = identities(alive) + identities(vanished)
    signed = [(v, sign(play.people[v], play.terms, b"survivors", identities(alive))) for v in signers or ()]
    return play.terms.message(Step.REQUEST, SERVER, head + records(signed))


@pytest.mark.parametrize("active", [True, False])
def test_never_both_shares_of_one_client(active: bool) -> None:
    play = played(without=(6,), active_server=active)
    if active:
        play.sign()
    with pytest.raises(ProtocolError, match="both shares"):
        play.clients[0].unmask(request(play, list(range(6)), [5, 6]))
    # it does not answer a second, honest request either: nor can one be told another story
    honest = play.requests[0] if active else play.server.request()[0]
    with pytest.raises(ProtocolError, match="twice, or out of turn"):
        play.clients[0].unmask(honest)


def test_one_share_per_neighbour_is_all_that_a_client_ever_gives() -> None:
    play = played(without=(6,))
    play.sign()
    answer = play.clients[0].unmask(play.requests[0])
    _, payload = play.terms.read(answer, Step.REVELATION)
    assert len(payload) == (N - 1) * (8 + 66)
    for peer, (of_seed, of_key) in play.clients[0].held.items():
        assert (of_seed in bytes(payload)) == (peer != 6)
        assert (of_key in bytes(payload)) == (peer == 6)


@pytest.mark.parametrize(
    ("alive", "vanished", "why"),
    [
        ([0, 1, 2, 3, 4], [5], "everybody who shared"),
        ([0, 1, 2, 3, 4, 5, 9], [6], "everybody who shared"),
        ([1, 2, 3, 4, 5], [0, 6], "this client is not"),
        ([0, 1], [2, 3, 4, 5, 6], "fewer than"),
        ([0, 1, 2, 3], [4, 5, 6], "are needed"),
        ([0, 1, 2, 3, 4, 6], [5], "other survivors than were agreed"),
    ],
)
def test_lists_that_cannot_be(alive: list[int], vanished: list[int], why: str) -> None:
    play = played(without=(6,))
    play.sign()
    with pytest.raises(ProtocolError, match=why):
        play.clients[0].unmask(request(play, alive, vanished, signers=[1, 2, 3, 4, 5]))


def test_signatures_of_the_threshold_on_one_list() -> None:
    """6 neighbours, threshold 5: four signatures, a forged one, one on another list, one of a stranger, no round."""
    alive, vanished = [0, 1, 2, 3, 4, 5], [6]

    def told(change: Callable[[Play], bytes]) -> str:
        play = played(without=(6,))
        play.sign()
        with pytest.raises(ProtocolError) as caught:
            play.clients[0].unmask(change(play))
        return str(caught.value)

    def with_signatures(play: Play, signatures: list[tuple[int, bytes]]) -> bytes:
        head = identities(alive) + identities(vanished)
        return play.terms.message(Step.REQUEST, SERVER, head + records(signatures))

    def good(play: Play, signer: int, content: list[int] = alive) -> bytes:
        return sign(play.people[signer], play.terms, b"survivors", identities(content))

    assert "4 neighbours signed" in told(lambda p: request(p, alive, vanished, signers=[1, 2, 3, 4]))
    assert "0 neighbours signed" in told(lambda p: request(p, alive, vanished))
    some = [1, 2, 3, 4]
    assert "not 5's" in told(lambda p: with_signatures(p, [(v, good(p, v)) for v in some] + [(5, good(p, 4))]))
    other = [0, 1, 2, 3, 4]
    assert "not 5's" in told(lambda p: with_signatures(p, [(v, good(p, v)) for v in some] + [(5, good(p, 5, other))]))
    assert "no neighbour that is alive" in told(lambda p: with_signatures(p, [(6, good(p, 6))]))
    play = played(without=(6,))
    with pytest.raises(ProtocolError, match="out of turn"):
        play.clients[0].unmask(request(play, alive, vanished, signers=some))


def test_a_server_that_tells_two_stories_gets_no_client() -> None:
    """It calls client 6 alive to some and vanished to others, whose signatures then disagree."""
    play = played()
    stories = {0: list(range(7)), 1: list(range(6))}
    signed: dict[int, dict[int, bytes]] = {0: {}, 1: {}}
    for number in range(6):
        story = number % 2
        message = play.terms.message(Step.SURVIVORS, SERVER, identities(stories[story]))
        _, signature = play.terms.read(play.clients[number].agree(message), Step.AGREEMENT)
        signed[story][number] = bytes(signature)
    for number in range(6):
        story = number % 2
        alive = stories[story]
        rest = sorted(set(range(7)) - set(alive))
        mine = [(v, s) for v, s in signed[story].items() if v != number]
        head = identities(alive) + identities(rest)
        with pytest.raises(ProtocolError, match="are needed"):
            play.clients[number].unmask(play.terms.message(Step.REQUEST, SERVER, head + records(mine)))


def test_messages_of_another_round_or_session_are_refused() -> None:
    who = people(N)
    first = Play(terms_of(round=0), who)
    first.share()
    second = Play(terms_of(round=1), who)
    with pytest.raises(ProtocolError, match="another session or round"):
        second.clients[0].share(first.rosters[0])
    with pytest.raises(ProtocolError, match="another session or round"):
        second.server.receive_keys(first.keys[0])
    other = Play(terms_of(session=b"another  session"))
    with pytest.raises(ProtocolError, match="another session or round"):
        other.server.receive_shares(first.shares[0])
    with pytest.raises(ProtocolError, match="where ROSTER was expected"):
        second.clients[1].share(second.keys[1])


def test_replayed_keys_and_boxes_are_refused_under_a_new_header() -> None:
    """The server puts old signed keys, or old boxes, into a message of this round."""
    who = people(N)
    first = Play(terms_of(round=0), who)
    first.share()
    second = Play(terms_of(round=1), who)
    _, old = first.terms.read(first.keys[3], Step.KEYS)
    _, told = second.terms.read(second.rosters[0], Step.ROSTER)
    _, new = second.terms.read(second.keys[3], Step.KEYS)
    replayed = second.terms.message(Step.ROSTER, SERVER, bytes(told).replace(bytes(new), bytes(old)))
    with pytest.raises(ProtocolError, match=r"a signature \(keys\) is not 3's"):
        second.clients[0].share(replayed)
    fresh = Play(terms_of(round=2), who)
    fresh.share()
    _, old_boxes = first.terms.read(first.deliveries[0], Step.DELIVERY)
    with pytest.raises(ProtocolError, match="not authentic"):
        fresh.clients[0].accept(fresh.terms.message(Step.DELIVERY, SERVER, bytes(old_boxes)))


def test_nobody_takes_part_in_a_round_twice() -> None:
    who = people(3)
    Client(who[0], terms_of(round=4), {})
    for again in (4, 3):
        with pytest.raises(ProtocolError, match="enters only later ones"):
            Client(who[0], terms_of(round=again), {})


def test_a_man_in_the_middle_is_refused_where_the_server_may_cheat() -> None:
    """Without signatures it would read everything: that is what a server is trusted with that only looks."""
    for active in (True, False):
        play = Play(terms_of(active_server=active))
        _, roster = play.terms.read(play.rosters[0], Step.ROSTER)
        _, honest = play.terms.read(play.keys[3], Step.KEYS)
        own = b"".join(X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(2))
        forged = play.terms.message(Step.ROSTER, SERVER, bytes(roster).replace(bytes(honest[: 2 * KEY_BYTES]), own))
        if active:
            with pytest.raises(ProtocolError, match="signature"):
                play.clients[0].share(forged)
        else:
            play.clients[0].share(forged)


def test_a_roster_that_is_no_roster() -> None:
    play = Play(terms_of())
    _, roster = play.terms.read(play.rosters[0], Step.ROSTER)
    size = 2 * KEY_BYTES + 64 + 8
    missing = bytes(roster)[:-size]
    twice = bytes(roster) + bytes(roster)[-size:]
    low = bytes(roster)[: -size + 8] + bytes(64) + bytes(roster)[-size + 72 :]
    for content, why in ((missing, "neighbours"), (twice, "twice"), (bytes(roster)[:-1], "too early"), (low, "signat")):
        client = Client(Identity(0), play.terms, play.directory)
        client.advertise()
        with pytest.raises(ProtocolError, match=why):
            client.share(play.terms.message(Step.ROSTER, SERVER, content))


def test_changed_boxes_and_rows_are_refused() -> None:
    play = Play(terms_of())
    play.share()
    damaged = bytearray(play.deliveries[0])
    damaged[-1] ^= 1
    with pytest.raises(ProtocolError, match="not authentic"):
        play.clients[0].accept(bytes(damaged))
    play.clients[1].accept(play.deliveries[1])
    with pytest.raises(ValueError, match="words were agreed"):
        play.clients[1].mask(np.zeros(8, np.uint32))
    row = play.clients[1].mask(np.zeros(9, np.uint32))
    for bad in (row[:-4], row + b"\0\0\0\0"):
        with pytest.raises(ProtocolError, match="masked row of"):
            play.server.receive_masked(bad)
    play.server.receive_masked(row)
    with pytest.raises(ProtocolError, match="second masked row"):
        play.server.receive_masked(row)


def test_wrong_shares_are_noticed() -> None:
    """A client that reveals garbage cannot make the server open a wrong sum of a recovered mask."""
    play = played(without=(6,))
    play.sign()
    for number, message in play.requests.items():
        answer = bytearray(play.clients[number].unmask(message))
        if number == 0:
            answer[-10] ^= 1
        play.server.receive_revelation(bytes(answer))
    with pytest.raises(ProtocolError, match=r"not of one secret|another key"):
        play.server.finish()


def test_steps_out_of_turn() -> None:
    play = Play(terms_of())
    with pytest.raises(ProtocolError, match="out of turn"):
        play.clients[0].advertise()
    with pytest.raises(ProtocolError, match="out of turn"):
        play.clients[1].mask(np.zeros(9, np.uint32))
    with pytest.raises(ProtocolError, match="out of turn"):
        play.clients[1].share(play.rosters[1])  # whoever broke off says nothing more


def test_terms_are_part_of_every_signature() -> None:
    base = terms_of()
    changes = {"round": 1, "length": 8, "ring_bits": 64, "degree": 4, "minimum": 4, "active_server": False}
    contexts = [base.context, *(replace(base, **{name: value}).context for name, value in changes.items())]
    assert all(a != b for a, b in itertools.combinations(contexts, 2))
