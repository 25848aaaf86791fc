"""Certified identities with Ed25519 (RFC 8032): an authority, holders of keys, and a gate that challenges them.

Keys and nonces come from the operating system: nothing that is measured depends on their values.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

NONCE_BYTES = 32
_CERTIFICATE = b"fedsec certificate 1\x00"
_ANSWER = b"fedsec answer 1\x00"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """An authority's word that a key belongs to an identity.

    Attributes:
        identity: the number under which it takes part.
        key: its public key, 32 bytes.
        signature: of both, 64 bytes.
    """

    identity: int
    key: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an identity replies to a challenge.

    Attributes:
        certificate: of its key.
        signature: by that key, of identity, round and nonce.
    """

    certificate: Certificate
    signature: bytes


class Authority:
    """Certifies the keys of those who enrolled; its own key never leaves it."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """Its public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def certify(self, identity: int, key: bytes) -> Certificate:
        """A certificate for a public key of 32 bytes."""
        return Certificate(identity=identity, key=key, signature=self._key.sign(_vouched(identity, key)))


class Holder:
    """An identity with a key pair of its own; without a certificate from an authority it signs one itself."""

    def __init__(self, identity: int) -> None:
        self.identity = identity
        self._key = Ed25519PrivateKey.generate()
        own = self._key.sign(_vouched(identity, self.public))
        self.certificate = Certificate(identity=identity, key=self.public, signature=own)

    @property
    def public(self) -> bytes:
        """Its public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def answer(self, *, number: int, nonce: bytes) -> Answer:
        """The answer to the challenge of a round."""
        return Answer(
            certificate=self.certificate,
            signature=self._key.sign(_challenged(self.identity, number=number, nonce=nonce)),
        )


class Gate:
    """The server's side: a fresh nonce per round, and the check of every answer to it.

    Certificates that were found right are remembered, so that an identity costs one check per round.
    """

    def __init__(self, authority: bytes) -> None:
        """Trust an authority by its public key."""
        self._authority = Ed25519PublicKey.from_public_bytes(authority)
        self._certified: dict[int, tuple[Certificate, Ed25519PublicKey]] = {}
        self._round, self._nonce = -1, b""

    def challenge(self, number: int) -> bytes:
        """A fresh nonce for a round, which ends the validity of the one before."""
        self._round, self._nonce = number, secrets.token_bytes(NONCE_BYTES)
        return self._nonce

    def accepts(self, identity: int, answer: Answer) -> bool:
        """Whether the answer proves the identity in the current round."""
        key = self._certified_key(answer.certificate) if answer.certificate.identity == identity else None
        if key is None or not self._nonce:
            return False
        return _valid(key, answer.signature, _challenged(identity, number=self._round, nonce=self._nonce))

    def _certified_key(self, certificate: Certificate) -> Ed25519PublicKey | None:
        known = self._certified.get(certificate.identity)
        if known is not None and known[0] == certificate:
            return known[1]
        if not _valid(self._authority, certificate.signature, _vouched(certificate.identity, certificate.key)):
            return None
        key = Ed25519PublicKey.from_public_bytes(certificate.key)
        self._certified[certificate.identity] = (certificate, key)
        return key


def _valid(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _vouched(identity: int, key: bytes) -> bytes:
    return _CERTIFICATE + identity.to_bytes(8, "big") + key


def _challenged(identity: int, *, number: int, nonce: bytes) -> bytes:
    return _ANSWER + identity.to_bytes(8, "big") + number.to_bytes(8, "big") + nonce
