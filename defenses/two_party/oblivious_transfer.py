"""One of two: the receiver learns one message of its choice, and the sender does not learn which.

Chou and Orlandi, "The Simplest Protocol for Oblivious Transfer" (LATINCRYPT 2015), in the 2048-bit group of RFC 3526
(about 112 bits of security). Secure against parties that follow the protocol; teaching grade: Python's integers do not
take constant time.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

Choices = Sequence[bool]


@dataclass(frozen=True)
class Group:
    """The squares modulo a safe prime: a group of prime order ``(prime - 1) / 2``.

    Attributes:
        prime: the modulus.
        generator: of the squares.
        exponent_bits: of random exponents.
    """

    prime: int
    generator: int = 4
    exponent_bits: int = 320

    @property
    def order(self) -> int:
        """Elements of the group."""
        return (self.prime - 1) // 2

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return (self.prime.bit_length() + 7) // 8

    def exponent(self) -> int:
        """A random exponent: uniform where it has as many bits as the order, else short."""
        return secrets.randbelow(min(self.order, 1 << self.exponent_bits))

    def power(self, base: int, exponent: int) -> int:
        """``base`` to the power of ``exponent``."""
        return pow(base, exponent, self.prime)

    def element(self, message: bytes) -> int:
        """An element from its bytes.

        Raises:
            ValueError: it is no square.
        """
        value = int.from_bytes(message, "big")
        if not 0 < value < self.prime or not is_square(value, self.prime):
            raise ValueError("not an element of the group")
        return value

    def encode(self, element: int) -> bytes:
        """The bytes of an element."""
        return element.to_bytes(self.element_bytes, "big")


RFC3526_2048 = Group(
    int(
        "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd"
        "ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed"
        "ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f"
        "83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b"
        "e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510"
        "15728e5a8aacaa68ffffffffffffffff",
        16,
    )
)


@dataclass
class Sender:
    """Holds pairs of messages; one exponent serves all transfers of a batch."""

    group: Group = RFC3526_2048
    _secret: int = field(default=0, repr=False)

    def offer(self) -> bytes:
        """The first message: one group element."""
        self._secret = 1 + secrets.randbelow(min(self.group.order - 1, 1 << self.group.exponent_bits))
        return self.group.encode(self.group.power(self.group.generator, self._secret))

    def answer(self, choices: Sequence[bytes], pairs: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Both messages of each pair, each under a key of which the receiver can know one.

        Args:
            choices: one element per pair, from the receiver.
            pairs: messages of up to 32 bytes, of equal length.

        Raises:
            ValueError: a choice that is no element.
        """
        group = self.group
        own = group.power(group.generator, self._secret)
        # (B / A)^a = B^a / A^a: one power per transfer
        undo = pow(group.power(own, self._secret), -1, group.prime)
        result = []
        for number, (choice, (first, second)) in enumerate(zip(choices, pairs, strict=True)):
            point = group.power(group.element(choice), self._secret)
            keys = [_key(group, p, number, choice, len(first)) for p in (point, point * undo % group.prime)]
            result.append((_xor(first, keys[0]), _xor(second, keys[1])))
        return result


@dataclass
class Receiver:
    """Chooses one message of each pair."""

    group: Group = RFC3526_2048
    _keys: list[tuple[int, bytes]] = field(default_factory=list, repr=False)
    _choices: list[bool] = field(default_factory=list, repr=False)

    def choose(self, offer: bytes, choices: Choices) -> list[bytes]:
        """One element per choice: uniform whatever the choice, with short exponents only to whoever cannot tell those.

        Raises:
            ValueError: the offer is no element, or 1.
        """
        group, theirs = self.group, self.group.element(offer)
        if theirs == 1:
            raise ValueError("an offer of 1 would make both choices one")
        messages = []
        for choice in choices:
            secret = group.exponent()
            element = group.power(group.generator, secret) * (theirs if choice else 1) % group.prime
            messages.append(group.encode(element))
            self._keys.append((group.power(theirs, secret), messages[-1]))
            self._choices.append(bool(choice))
        return messages

    def read(self, answers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """The chosen messages."""
        triples = zip(self._keys, self._choices, answers, strict=True)
        return [
            _xor(pair[choice], _key(self.group, point, number, message, len(pair[0])))
            for number, ((point, message), choice, pair) in enumerate(triples)
        ]


def is_square(value: int, prime: int) -> bool:
    """Whether a value is a square modulo an odd prime, by the law of quadratic reciprocity (Jacobi's symbol).

    Args:
        value: in ``[1, prime)``.
        prime: odd.
    """
    symbol, top, bottom = 1, value, prime
    while top:
        twos = (top & -top).bit_length() - 1
        top >>= twos
        if twos & 1 and bottom & 7 in (3, 5):
            symbol = -symbol
        if top & 3 == 3 and bottom & 3 == 3:
            symbol = -symbol
        top, bottom = bottom % top, top
    return symbol == 1


def _key(group: Group, point: int, number: int, choice: bytes, size: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "little") + choice + group.encode(point)).digest()[:size]


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))
