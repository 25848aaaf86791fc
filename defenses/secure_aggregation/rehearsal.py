"""Known answers that only the protocol itself can give: dropouts at every phase, colluders, a server that cheats."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chisquare

from fedsec.selftests.answers import Answer, KnownAnswer
from fedsec.selftests.bench import CLIENTS, Bench

from .graph import threshold_of
from .keys import Identity, mask_seed, sign
from .messages import HEADER_BYTES, SERVER, Aborted, ProtocolError, Step, Terms, identities, records
from .ring import add_mask, dtype_of
from .server import MaskedSum
from .session import Session, unmask_row

PHASES = ("keys", "shares", "upload", "agreement", "revelation")
_LENGTH = 4096


def terms_of(bench: Bench, *, length: int = 16) -> Terms:
    """The terms of a round with the parameters of the defense that is tried."""
    given: dict[str, Any] = dict(bench.defense.parameters())
    return Terms(
        session=bytes(16),
        round=0,
        length=length,
        ring_bits=given["ring"],
        degree=given["neighbours"],
        minimum=given["minimum_cohort"],
        active_server=given["active_server"],
    )


def _session(terms: Terms, **gone: range) -> Session:
    session = Session(terms, {number: Identity(number) for number in range(CLIENTS)})
    session.set_up(without_keys=gone.get("keys", ()), without_shares=gone.get("shares", ()))
    return session


def every_phase(bench: Bench) -> Answer:
    """From none to all gone at each phase: the sum of the rows that arrived, or no sum."""
    terms = terms_of(bench)
    rows = np.arange(1, CLIENTS + 1, dtype=dtype_of(terms.ring_bits))[:, None] * np.ones(
        terms.length, dtype_of(terms.ring_bits)
    )
    wrong: list[str] = []
    right: dict[str, int] = {}
    for phase in PHASES:
        for count in range(CLIENTS):
            gone = {phase: range(count)}
            try:
                session = _session(terms, **gone)
                total = MaskedSum(terms)
                for number in range(CLIENTS):
                    message = None if number in gone.get("upload", ()) else session.mask(number, rows[number])
                    if message is not None:
                        total.add(message)
                arrived = sorted(total.senders)
                opened = session.finish(
                    total, without_agreement=gone.get("agreement", ()), without_shares=gone.get("revelation", ())
                )
            except Aborted:
                if count == 0:
                    wrong.append("nobody gone: no sum")
                continue
            right[phase] = count
            if not np.array_equal(opened, rows[arrived].sum(axis=0, dtype=rows.dtype)):
                wrong.append(f"{count} gone at {phase}: a wrong sum")
    reached = ", ".join(f"{phase} {count}" for phase, count in right.items())
    found = "; ".join(wrong) or f"right with so many of {CLIENTS} gone at {reached}; no sum with more"
    return Answer(not wrong, found, "the sum of the rows that arrived, or no sum")


def colluders(bench: Bench) -> Answer:
    """A row of zeros in the view of the server and one neighbour less than the threshold."""
    terms = terms_of(bench, length=_LENGTH)
    session = _session(terms)
    message = session.mask(0, np.zeros(terms.length, dtype_of(terms.ring_bits)))
    if message is None:
        return Answer(False, "a client that cannot mask", "a masked row")
    near = session.server.neighbours(0)
    threshold = threshold_of(len(near), active_server=terms.active_server)
    told = {v: session.clients[v].held[0] for v in near}
    publics = {v: session.server.mask_key(v) for v in near}
    few, enough = dict(list(told.items())[: threshold - 1]), dict(list(told.items())[:threshold])
    if bool(unmask_row(message, enough, publics, terms=terms, threshold=threshold).any()):
        return Answer(False, f"{threshold} neighbours do not open the row", "the threshold does")
    try:
        guess = unmask_row(message, few, publics, terms=terms, threshold=max(1, threshold - 1))
        if not guess.any():
            return Answer(False, f"{threshold - 1} neighbours open the row", "nothing")
    except (ProtocolError, ValueError):
        pass  # shares that are too few say so, or give another secret
    left = np.frombuffer(message[HEADER_BYTES:], dtype_of(terms.ring_bits)).copy()
    for v in few:
        seed = mask_seed(session.clients[v]._mask_key, session.server.mask_key(0), terms=terms, pair=(0, v))
        add_mask(left, seed, subtract=v > 0)
    chance = float(chisquare(np.bincount(left.view(np.uint8), minlength=256)).pvalue)
    found = (
        f"{threshold - 1} of {len(near)} cannot tell what is left from noise (chance {chance:.2g}); {threshold} open it"
    )
    return Answer(chance > 1e-6, found, "nothing below the threshold")


def both_shares(bench: Bench) -> Answer:
    """A server that calls one client both alive and vanished, and one that asks a second time."""
    terms = terms_of(bench)
    session = _session(terms)
    rows = np.zeros((CLIENTS, terms.length), dtype_of(terms.ring_bits))
    total = MaskedSum(terms)
    gone = CLIENTS - 1
    for number in range(CLIENTS):
        message = session.mask(number, rows[number]) if number != gone else None
        if message is not None:
            total.add(message)
    server = session.server
    server.sum = total
    alive = sorted(total.senders)
    if terms.active_server:
        for number, survivors in server.survivors().items():
            server.receive_agreement(session.clients[number].agree(survivors))
    honest = server.request()
    head = identities(alive) + identities([alive[-1], gone])
    signed = [(v, sign(session.clients[v]._identity, terms, b"survivors", identities(alive))) for v in alive[1:]]
    asked = terms.message(Step.REQUEST, SERVER, head + (records(signed) if terms.active_server else b""))
    answers: list[str] = []
    for name, request in (("both shares", asked), ("a second request", honest[0])):
        try:
            session.clients[0].unmask(request)
            answers.append(f"gave an answer to {name}")
        except ProtocolError:
            continue
    return Answer(not answers, "; ".join(answers) or "refused, and silent afterwards", "a refusal")


def always(bench: Bench) -> str:
    """Every parameter has such a round."""
    return ""


KNOWN_ANSWERS = (
    KnownAnswer("dropouts-every-phase", "Do dropouts at every phase leave the right sum or none", always, every_phase),
    KnownAnswer("colluders", "Does one less than the threshold learn nothing", always, colluders),
    KnownAnswer("both-shares", "Is a server refused that asks for both shares of a client", always, both_shares),
)
