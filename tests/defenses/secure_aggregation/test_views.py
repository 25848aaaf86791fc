"""What a coalition learns from everything it holds: with t - 1 of the shares nothing, with t a row."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare
from secure_aggregation_round import arrived, people, rows_of, terms_of

from fedsec.defenses.secure_aggregation.graph import threshold_of
from fedsec.defenses.secure_aggregation.messages import HEADER_BYTES, Aborted, Terms
from fedsec.defenses.secure_aggregation.ring import dtype_of, mask
from fedsec.defenses.secure_aggregation.session import Session, unmask_row
from fedsec.defenses.secure_aggregation.shamir import PRIME, SHARE_BYTES, combine


def session_of(n: int, **changes: object) -> tuple[Session, Terms]:
    terms = terms_of(**changes)
    session = Session(terms, people(n))
    session.set_up()
    return session, terms


@pytest.mark.parametrize("ring_bits", [32, 64])
@pytest.mark.parametrize("degree", [None, 4])
def test_masked_words_are_uniform_whatever_the_row(ring_bits: int, degree: int | None) -> None:
    """Rows of zeros and of the largest word: the wire looks the same (chi-square over bytes)."""
    length = 1 << 15
    session, terms = session_of(8, ring_bits=ring_bits, degree=degree, length=length)
    for number, word in enumerate((0, (1 << ring_bits) - 1, 0)):
        message = session.mask(number, np.full(length, word, dtype_of(ring_bits)))
        assert message is not None
        counts = np.bincount(np.frombuffer(message[HEADER_BYTES:], np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-6
    assert terms.length == length


@pytest.mark.parametrize("degree", [None, 4])
def test_the_threshold_opens_a_row_and_one_fewer_does_not(degree: int | None) -> None:
    session, terms = session_of(8, degree=degree)
    rows = rows_of(8, terms)
    message = session.mask(3, rows[3])
    assert message is not None
    near = session.server.neighbours(3)
    threshold = threshold_of(len(near), active_server=True)
    told = {v: session.clients[v].held[3] for v in near}
    publics = {v: session.server.mask_key(v) for v in near}
    few = dict(list(told.items())[:threshold])
    assert np.array_equal(unmask_row(message, few, publics, terms=terms, threshold=threshold), rows[3])
    few.popitem()
    with pytest.raises(Aborted, match="are needed"):
        unmask_row(message, few, publics, terms=terms, threshold=threshold)
    # nor by pretending that the threshold is lower
    with pytest.raises(ValueError, match="not of one secret"):
        unmask_row(message, few, publics, terms=terms, threshold=threshold - 1)


def test_with_one_share_fewer_every_row_is_possible() -> None:
    """Two views of t - 1 colluders and the server, one world with row a and one with row b, that are equal.

    A coalition of t - 1 neighbours of client 0 holds its masked row, t - 1 shares of its seed, and the pairwise masks
    that it shares with it. For any other row there is a mask, so a view, that is consistent with all of that: the mask
    of the own seed is fixed by no share (of `t - 1`, every secret is possible), and it is uniform over the ring.
    """
    session, terms = session_of(7)
    rows = rows_of(7, terms)
    message = session.mask(0, rows[0])
    assert message is not None
    threshold = threshold_of(6, active_server=True)
    held = {v + 1: session.clients[v].held[0][0] for v in (1, 2, 3, 4)}
    assert len(held) == threshold - 1
    for guess in (b"a" * 32, b"b" * 32):
        points = {0: int.from_bytes(guess, "little")} | {p: int.from_bytes(s, "little") for p, s in held.items()}
        missing = _interpolate(points, 6)
        completed = held | {6: missing.to_bytes(SHARE_BYTES, "little")}
        assert combine(completed, threshold=threshold) == guess
        row = np.frombuffer(message[HEADER_BYTES:], np.uint32) - mask(guess, terms.length, 32)
        assert not np.array_equal(row, rows[0])


def _interpolate(at: dict[int, int], x: int) -> int:
    total = 0
    for this, value in at.items():
        for other in at:
            if other != this:
                value = value * (x - other) * pow(this - other, -1, PRIME) % PRIME
        total += value
    return total % PRIME


def test_the_server_alone_learns_the_sum_and_nothing_else() -> None:
    """Rows that differ and have one sum: after the masks of the server's view are taken away, the rest is masked."""
    terms = terms_of(length=4096)
    session = Session(terms, people(5))
    session.set_up()
    rows = rows_of(5, terms)
    total = arrived(session, rows)
    opened = session.finish(total)
    assert np.array_equal(opened, rows.sum(axis=0, dtype=np.uint32))
    # in the end it knows the seed of everybody alive; one row less that mask is still masked pair by pair
    fresh = Session(terms_of(length=4096, round=1), people(5))
    fresh.set_up()
    message = fresh.mask(2, np.zeros(4096, np.uint32))
    assert message is not None
    left = np.frombuffer(message[HEADER_BYTES:], np.uint32) - mask(fresh.clients[2]._seed, 4096, 32)
    assert chisquare(np.bincount(left.view(np.uint8), minlength=256)).pvalue > 1e-6


def test_session_peeks_as_the_server_with_colluders_would() -> None:
    session, terms = session_of(6, degree=4)
    rows = rows_of(6, terms)
    for number in range(6):
        message = session.mask(number, rows[number])
        assert message is not None
        assert np.array_equal(session.reveal(message), rows[number])
