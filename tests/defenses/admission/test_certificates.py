"""Ed25519 identities: what the gate accepts, and every way of cheating that it must refuse."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedsec.defenses.admission import Authority, Gate, Holder


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
def gate(authority):
    return Gate(authority.public)


def enrolled(authority, identity):
    holder = Holder(identity)
    holder.certificate = authority.certify(identity, holder.public)
    return holder


def test_an_enrolled_identity_is_accepted_round_after_round(authority, gate):
    holder = enrolled(authority, 3)
    for number in range(4):
        assert gate.accepts(3, holder.answer(number=number, nonce=gate.challenge(number)))


def test_the_certificate_is_the_authority_s_signature_of_identity_and_key(authority):
    certificate = enrolled(authority, 5).certificate
    key = Ed25519PublicKey.from_public_bytes(authority.public)
    key.verify(certificate.signature, b"fedsec certificate 1\x00" + bytes(7) + b"\x05" + certificate.key)


def test_a_self_made_certificate_is_refused(gate):
    sybil = Holder(3)
    assert not gate.accepts(3, sybil.answer(number=0, nonce=gate.challenge(0)))


def test_a_certificate_of_another_authority_is_refused(gate):
    holder = enrolled(Authority(), 3)
    assert not gate.accepts(3, holder.answer(number=0, nonce=gate.challenge(0)))


def test_replay_of_an_earlier_round_is_refused(authority, gate):
    holder = enrolled(authority, 3)
    old = holder.answer(number=0, nonce=gate.challenge(0))
    assert gate.accepts(3, old)
    nonce = gate.challenge(1)
    assert not gate.accepts(3, old)
    assert not gate.accepts(3, holder.answer(number=0, nonce=nonce))  # the nonce of this round, for another round
    assert gate.accepts(3, holder.answer(number=1, nonce=nonce))


def test_the_same_round_number_with_a_new_nonce_ends_the_old_one(authority, gate):
    holder = enrolled(authority, 3)
    first = gate.challenge(0)
    old = holder.answer(number=0, nonce=first)
    assert gate.challenge(0) != first
    assert not gate.accepts(3, old)


def test_no_answer_is_good_before_the_first_challenge(authority, gate):
    assert not gate.accepts(3, enrolled(authority, 3).answer(number=0, nonce=b""))


def test_a_stolen_certificate_without_its_key_is_refused(authority, gate):
    victim, thief = enrolled(authority, 3), Holder(3)
    thief.certificate = victim.certificate
    nonce = gate.challenge(0)
    assert not gate.accepts(3, thief.answer(number=0, nonce=nonce))
    assert gate.accepts(3, victim.answer(number=0, nonce=nonce))  # and the victim is not locked out


def test_one_certificate_does_not_serve_many_identities(authority, gate):
    bribed = enrolled(authority, 3)
    nonce = gate.challenge(0)
    answer = bribed.answer(number=0, nonce=nonce)
    for identity in (4, 1000):
        assert not gate.accepts(identity, answer)
        renamed = dataclasses.replace(answer, certificate=dataclasses.replace(answer.certificate, identity=identity))
        assert not gate.accepts(identity, renamed)


def test_a_forged_key_in_a_true_certificate_is_refused(authority, gate):
    victim, thief = enrolled(authority, 3), Holder(3)
    nonce = gate.challenge(0)
    assert gate.accepts(3, victim.answer(number=0, nonce=nonce))  # the gate remembers the true certificate
    thief.certificate = dataclasses.replace(victim.certificate, key=thief.public)
    assert not gate.accepts(3, thief.answer(number=0, nonce=nonce))


@pytest.mark.parametrize("field", ["signature", "key"])
@pytest.mark.parametrize("junk", [b"", bytes(64), bytes(31), b"\xff" * 32])
def test_junk_is_refused_and_raises_nothing(authority, gate, field, junk):
    holder = enrolled(authority, 3)
    nonce = gate.challenge(0)
    answer = holder.answer(number=0, nonce=nonce)
    broken = dataclasses.replace(answer.certificate, **{field: junk})
    assert not gate.accepts(3, dataclasses.replace(answer, certificate=broken))
    assert not gate.accepts(3, dataclasses.replace(answer, signature=junk))


def test_an_answer_signed_for_another_purpose_is_refused(authority, gate):
    """A signature of the same bytes under another heading must not count: the heading is signed too."""
    key = Ed25519PrivateKey.generate()
    certificate = authority.certify(3, key.public_key().public_bytes_raw())
    nonce = gate.challenge(0)
    holder = enrolled(authority, 3)
    good = holder.answer(number=0, nonce=nonce)
    bare = key.sign((3).to_bytes(8, "big") + (0).to_bytes(8, "big") + nonce)
    assert not gate.accepts(3, dataclasses.replace(good, certificate=certificate, signature=bare))
    whole = key.sign(b"fedsec answer 1\x00" + (3).to_bytes(8, "big") + (0).to_bytes(8, "big") + nonce)
    assert gate.accepts(3, dataclasses.replace(good, certificate=certificate, signature=whole))


def test_a_certificate_is_checked_once(authority, gate, monkeypatch):
    from fedsec.defenses.admission import certificates

    checked = []
    real = certificates._valid
    monkeypatch.setattr(certificates, "_valid", lambda *args: (checked.append(1), real(*args))[1])
    holder = enrolled(authority, 3)
    for number in range(5):
        assert gate.accepts(3, holder.answer(number=number, nonce=gate.challenge(number)))
    assert len(checked) == 1 + 5
