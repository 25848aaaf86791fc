"""Rounds with dropouts at every phase: the sum of the rows that arrived, to the bit, or a clean abort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_aggregation_round import arrived, people, rows_of, terms_of

from fedsec.defenses.secure_aggregation.graph import neighbours_of, threshold_of
from fedsec.defenses.secure_aggregation.messages import Aborted, Step
from fedsec.defenses.secure_aggregation.session import Session, row_bytes

PHASES = ("keys", "shares", "upload", "agreement", "revelation", "never")


def truth(n: int, fates: list[str], *, degree: int | None, active: bool, minimum: int = 3) -> set[int] | None:
    """Whose rows are summed, by the rules alone: no keys, no masks; ``None``: no sum."""

    def until(phase: str) -> set[int]:
        return {i for i in range(n) if PHASES.index(fates[i]) > PHASES.index(phase)}

    keyed = until("keys")
    if len(keyed) < minimum:
        return None
    near = {i: set(neighbours_of(i, sorted(keyed), degree=degree, seed=terms_of().graph_seed)) for i in keyed}
    least = {i: threshold_of(len(near[i]), active_server=active) for i in keyed}
    shared = until("shares")
    if len(shared) < minimum:
        return None
    ready = {i for i in shared if len(near[i] & shared) >= least[i]}
    alive = ready & until("upload")
    if len(alive) < minimum:
        return None
    willing = {i for i in alive if len(near[i] & alive) >= least[i]}
    signed = willing & until("agreement") if active else alive & until("agreement")
    seen = {i for i in signed if len(near[i] & signed) >= least[i]} if active else willing & until("agreement")
    revealing = seen & until("revelation")
    needed = alive | {i for i in shared - alive if near[i] & alive}
    return alive if all(len(near[i] & revealing) >= least[i] for i in needed) else None


@settings(deadline=None, max_examples=60)
@given(
    fates=st.lists(st.sampled_from((*PHASES, "never", "never", "never", "never")), min_size=3, max_size=12),
    degree=st.sampled_from([None, 2, 4, 6]),
    active=st.booleans(),
    ring_bits=st.sampled_from([32, 64]),
)
def test_dropouts_at_every_phase(fates: list[str], degree: int | None, active: bool, ring_bits: int) -> None:
    n = len(fates)
    gone = {phase: [i for i in range(n) if fates[i] == phase] for phase in PHASES}
    terms = terms_of(degree=degree, active_server=active, ring_bits=ring_bits)
    session, rows = Session(terms, people(n)), rows_of(n, terms)
    expected = truth(n, fates, degree=degree, active=active)
    try:
        session.set_up(without_keys=gone["keys"], without_shares=gone["shares"])
        total = arrived(session, rows, without=gone["upload"])
        senders = set(total.senders)
        opened = session.finish(total, without_agreement=gone["agreement"], without_shares=gone["revelation"])
    except Aborted:
        assert expected is None
    else:
        assert expected == senders
        assert np.array_equal(opened, rows[sorted(senders)].sum(axis=0, dtype=rows.dtype))


@pytest.mark.parametrize("phase", PHASES[:-1])
@pytest.mark.parametrize("active", [True, False])
def test_abort_below_the_threshold_and_not_above(phase: str, active: bool) -> None:
    """With 10 clients and 9 neighbours each, 7 (5) are needed: the edge at every phase."""
    needed = threshold_of(9, active_server=active)
    assert needed == (7 if active else 5)
    # a client that vanished earlier is no neighbour any more; later every one of 9 counts, and one of them is oneself
    for left, works in ((needed + 1, True), (needed, phase == "keys")):
        fates = ["never"] * left + [phase] * (10 - left)
        gone = list(range(left, 10))
        terms = terms_of(active_server=active)
        session, rows = Session(terms, people(10)), rows_of(10, terms)
        assert (truth(10, fates, degree=None, active=active) is not None) == works
        try:
            session.set_up(
                without_keys=gone if phase == "keys" else (), without_shares=gone if phase == "shares" else ()
            )
            total = arrived(session, rows, without=gone if phase == "upload" else ())
            session.finish(
                total,
                without_agreement=gone if phase == "agreement" else (),
                without_shares=gone if phase == "revelation" else (),
            )
        except Aborted:
            assert not works
        else:
            assert works


def test_too_small_a_cohort_is_never_opened() -> None:
    terms = terms_of(minimum=5)
    with pytest.raises(Aborted, match="minimum"):
        Session(terms, people(4)).set_up()
    session, rows = Session(terms, people(6)), rows_of(6, terms)
    session.set_up()
    with pytest.raises(Aborted, match="minimum"):
        session.finish(arrived(session, rows, without=[0, 1]))
    with pytest.raises(ValueError, match="minimum of 2"):
        terms_of(minimum=1)


def test_two_clients_are_the_fewest() -> None:
    terms = terms_of(minimum=2)
    session, rows = Session(terms, people(2)), rows_of(2, terms)
    session.set_up()
    assert np.array_equal(session.finish(arrived(session, rows)), rows.sum(axis=0, dtype=rows.dtype))


def test_recovery_is_counted_and_bytes_too() -> None:
    terms = terms_of(length=1000)
    session, rows = Session(terms, people(12)), rows_of(12, terms)
    session.set_up()
    session.finish(arrived(session, rows, without=[3, 4]))
    assert session.server.recovered == (3, 4)
    assert session.traffic.up[Step.MASKED] == 10 * row_bytes(1000, 32) == 10 * (4 * 1000 + 33)
    # one box of two 66-byte shares and a tag for each neighbour, and its name
    assert session.traffic.up[Step.SHARES] == 12 * (33 + 11 * (8 + 2 * 66 + 16))
    assert session.traffic.beside_rows > session.traffic.up[Step.SHARES]
    assert session.traffic.to_clients > session.traffic.up[Step.SHARES]


def test_keys_and_masks_are_fresh_in_every_round() -> None:
    identities = people(4)
    wires = []
    for number in range(2):
        terms = terms_of(round=number, length=500)
        session = Session(terms, identities)
        session.set_up()
        wires.append((session.mask(0, np.zeros(500, np.uint32)), session.server.mask_key(0)))
    assert wires[0][0] != wires[1][0]
    assert wires[0][1] != wires[1][1]
