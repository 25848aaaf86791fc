"""A garbled comparison of two numbers: half gates with free XOR and point-and-permute.

Zahur, Rosulek, Evans (EUROCRYPT 2015); the circuit is Kolesnikov, Sadeghi, Schneider's (CANS 2009) comparison with one
AND gate per bit. Labels have 128 bits, the hash is SHA-256. Secure against parties that follow the protocol.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

LABEL_BYTES = 16


@dataclass(frozen=True)
class Garbled:
    """What the evaluator gets of a circuit.

    Attributes:
        tables: ``(generator half, evaluator half)`` of each AND gate.
        decode: the colour of the output wire's label for 0.
    """

    tables: tuple[tuple[int, int], ...]
    decode: int

    @property
    def nbytes(self) -> int:
        """Bytes on the wire: two labels a gate, and one for the colour."""
        return 2 * LABEL_BYTES * len(self.tables) + 1


@dataclass(frozen=True)
class Wires:
    """What the garbler keeps: the label for 0 of each input wire; the label for 1 is its XOR with the offset.

    Attributes:
        first: of the garbler's number, lowest bit first.
        second: of the evaluator's number.
        offset: the same for all wires; its lowest bit is 1.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    offset: int

    def labels(self, value: int) -> list[int]:
        """The labels of the garbler's number."""
        return [zero ^ self.offset * (value >> bit & 1) for bit, zero in enumerate(self.first)]

    def pairs(self) -> list[tuple[int, int]]:
        """Both labels of each bit of the evaluator's number, of which it may learn one."""
        return [(zero, zero ^ self.offset) for zero in self.second]


def garble(bits: int) -> tuple[Garbled, Wires]:
    """Garble ``first > second`` for numbers of ``bits`` bits.

    With carry ``c = 0`` at first, every bit makes ``c = ((a + c)(b + c)) + a`` (modulo 2): it keeps the carry where the
    bits are equal, and becomes ``a`` where they differ.
    """
    offset = secrets.randbits(128) | 1
    first = tuple(secrets.randbits(128) for _ in range(bits))
    second = tuple(secrets.randbits(128) for _ in range(bits))
    tables, carry = [], 0
    for gate, (a, b) in enumerate(zip(first, second, strict=True)):
        table, product = _garbled_and(a ^ carry, b ^ carry, offset, gate)
        tables.append(table)
        carry = product ^ a
    return Garbled(tuple(tables), carry & 1), Wires(first, second, offset)


def evaluate(garbled: Garbled, first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether the first number is larger.

    Args:
        garbled: the circuit.
        first: the labels of the garbler's bits, lowest first.
        second: the labels of the own bits.
    """
    return bool((output_label(garbled, first, second) & 1) ^ garbled.decode)


def output_label(garbled: Garbled, first: Sequence[int], second: Sequence[int]) -> int:
    """The label of the output wire; arguments as for `evaluate`."""
    carry = 0
    for gate, (a, b, (half, other)) in enumerate(zip(first, second, garbled.tables, strict=True)):
        x, y = a ^ carry, b ^ carry
        left = _hash(x, 2 * gate) ^ (half if x & 1 else 0)
        right = _hash(y, 2 * gate + 1) ^ ((other ^ x) if y & 1 else 0)
        carry = left ^ right ^ a
    return carry


def _garbled_and(x: int, y: int, offset: int, gate: int) -> tuple[tuple[int, int], int]:
    """Both half gates of ``x y`` from the labels for 0, and the label of the product for 0."""
    x0, x1 = _hash(x, 2 * gate), _hash(x ^ offset, 2 * gate)
    y0, y1 = _hash(y, 2 * gate + 1), _hash(y ^ offset, 2 * gate + 1)
    half = x0 ^ x1 ^ (offset if y & 1 else 0)
    other = y0 ^ y1 ^ x
    left = x0 ^ (half if x & 1 else 0)
    right = y0 ^ ((other ^ x) if y & 1 else 0)
    return (half, other), left ^ right


def _hash(label: int, tweak: int) -> int:
    data = label.to_bytes(LABEL_BYTES, "little") + tweak.to_bytes(4, "little")
    return int.from_bytes(hashlib.sha256(data).digest()[:LABEL_BYTES], "little")
