"""Keys of a round: agreement, derivation, boxes for shares, signatures of known identities."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .messages import ProtocolError, Terms
from .ring import SEED_BYTES
from .shamir import SHARE_BYTES

KEY_BYTES = 32
SIGNATURE_BYTES = 64
BOX_BYTES = 2 * SHARE_BYTES + 16
"""Two shares and an authentication tag."""
_NONCE = bytes(12)
"""Zero: every box has a key of its own."""


@dataclass
class Identity:
    """A client as the others know it in all rounds: a number, and a signing key whose public half they hold.

    Attributes:
        number: its identity.
        last_round: the newest round that it took part in, so that nobody makes it take part twice.
    """

    number: int
    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)
    last_round: int = -1

    @property
    def public(self) -> Ed25519PublicKey:
        """What a public-key infrastructure tells the others."""
        return self.signing.public_key()


def exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    """What both ends of a Diffie-Hellman exchange share (X25519); only keys derived from it are used.

    Args:
        private: of one end.
        public: 32 bytes of the other.

    Raises:
        ProtocolError: a public key of small order.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError("a public key of small order") from None


def mask_seed(private: X25519PrivateKey, public: bytes, *, terms: Terms, pair: tuple[int, int]) -> bytes:
    """The seed of the mask that two clients share in this round; the same whoever of them asks."""
    return _derive(exchange(private, public), terms.context + b"mask" + _numbers(*sorted(pair)))


def box_key(shared: bytes, *, terms: Terms, sender: int, recipient: int) -> bytes:
    """The key of the one box that ``sender`` sends ``recipient`` in this round, from what they `exchange`."""
    return _derive(shared, terms.context + b"box" + _numbers(sender, recipient))


def _derive(shared: bytes, info: bytes) -> bytes:
    """HKDF-SHA256; ``info`` names round, purpose, pair and direction."""
    return HKDF(SHA256(), SEED_BYTES, salt=None, info=info).derive(shared)


def close_box(key: bytes, content: bytes, *, sender: int, recipient: int) -> bytes:
    """Encrypt and authenticate (ChaCha20-Poly1305)."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, content, _numbers(sender, recipient))


def open_box(key: bytes, box: bytes, *, sender: int, recipient: int) -> bytes:
    """What was put in.

    Raises:
        ProtocolError: it was not made for this pair in this round, or changed on the way.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, box, _numbers(sender, recipient))
    except InvalidTag:
        raise ProtocolError(f"the shares from {sender} to {recipient} are not authentic") from None


def sign(identity: Identity, terms: Terms, purpose: bytes, content: bytes) -> bytes:
    """A signature on content for one purpose in one round."""
    return identity.signing.sign(terms.context + purpose + _numbers(identity.number) + content)


def verify(
    public: Ed25519PublicKey, signature: bytes, *, terms: Terms, purpose: bytes, signer: int, content: bytes
) -> None:
    """Check a signature.

    Raises:
        ProtocolError: it is not the signer's, or of another purpose, round or content.
    """
    try:
        public.verify(signature, terms.context + purpose + _numbers(signer) + content)
    except InvalidSignature:
        raise ProtocolError(f"a signature ({purpose.decode()}) is not {signer}'s") from None


def _numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)
