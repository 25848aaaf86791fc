"""The millionaires' problem: two parties learn who has more, and nothing else (Yao, FOCS 1982 and 1986)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from .garbling import LABEL_BYTES, Garbled, evaluate, garble, output_label
from .oblivious_transfer import RFC3526_2048, Group, Receiver, Sender


@dataclass(frozen=True, kw_only=True)
class Messages:
    """All that crosses the wire, in order.

    Attributes:
        offer: garbler to evaluator: the first message of the oblivious transfers.
        choices: evaluator to garbler: one group element for each of its bits.
        circuit: garbler to evaluator: the garbled circuit.
        labels: garbler to evaluator: the labels of its own bits.
        answers: garbler to evaluator: the labels of the evaluator's bits, two sealed ones for each.
        result: evaluator to garbler: who has more.
    """

    offer: bytes
    choices: tuple[bytes, ...]
    circuit: Garbled
    labels: tuple[int, ...]
    answers: tuple[tuple[bytes, bytes], ...]
    result: bytes

    def nbytes(self) -> dict[str, int]:
        """Bytes of each message."""
        return {
            "offer": len(self.offer),
            "choices": sum(map(len, self.choices)),
            "circuit": self.circuit.nbytes,
            "labels": LABEL_BYTES * len(self.labels),
            "answers": sum(len(a) + len(b) for a, b in self.answers),
            "result": len(self.result),
        }


def richer(first: int, second: int, *, bits: int, group: Group = RFC3526_2048) -> tuple[bool, Messages]:
    """Whether ``first > second``, by a garbled circuit and oblivious transfer; the garbler has ``first``.

    Args:
        first: in ``[0, 2**bits)``.
        second: in ``[0, 2**bits)``.
        bits: of the numbers.
        group: of the oblivious transfer.

    Returns:
        The answer, and what was sent.

    Raises:
        ValueError: a number that does not fit.
    """
    if not (0 <= first < 1 << bits and 0 <= second < 1 << bits):
        raise ValueError(f"{first} or {second} does not fit into {bits} bits")
    sender, receiver = Sender(group), Receiver(group)
    offer = sender.offer()
    choices = receiver.choose(offer, [bool(second >> bit & 1) for bit in range(bits)])
    circuit, wires = garble(bits)
    pairs = [(a.to_bytes(LABEL_BYTES, "little"), b.to_bytes(LABEL_BYTES, "little")) for a, b in wires.pairs()]
    answers = sender.answer(choices, pairs)
    own = [int.from_bytes(label, "little") for label in receiver.read(answers)]
    labels = wires.labels(first)
    answer = evaluate(circuit, labels, own)
    messages = Messages(
        offer=offer,
        choices=tuple(choices),
        circuit=circuit,
        labels=tuple(labels),
        answers=tuple(answers),
        result=bytes([answer]),
    )
    return answer, messages


def simulated_for_evaluator(
    second: int, answer: bool, *, bits: int, group: Group = RFC3526_2048, receiver: Receiver | None = None
) -> Messages:
    """What the evaluator sees, made from its own number and the answer alone: nothing else can be in it.

    Random labels and tables that lead somewhere, with the colour that turns the end into the answer; the label that it
    does not choose is random bytes.

    Args:
        second: the evaluator's number.
        answer: what it learns.
        bits: of the numbers.
        group: of the oblivious transfer.
        receiver: the evaluator's side of the transfers, which reads the labels; a fresh one by default.
    """
    sender, receiver = Sender(group), receiver or Receiver(group)
    offer = sender.offer()
    choices = receiver.choose(offer, [bool(second >> bit & 1) for bit in range(bits)])
    tables = tuple((secrets.randbits(128), secrets.randbits(128)) for _ in range(bits))
    labels = tuple(secrets.randbits(128) for _ in range(bits))
    own = [secrets.randbits(128) for _ in range(bits)]
    decode = (output_label(Garbled(tables, 0), labels, own) & 1) ^ int(answer)
    pairs = [
        (label, secrets.token_bytes(LABEL_BYTES))
        if not second >> bit & 1
        else (secrets.token_bytes(LABEL_BYTES), label)
        for bit, label in enumerate(value.to_bytes(LABEL_BYTES, "little") for value in own)
    ]
    return Messages(
        offer=offer,
        choices=tuple(choices),
        circuit=Garbled(tables, decode),
        labels=labels,
        answers=tuple(sender.answer(choices, pairs)),
        result=bytes([answer]),
    )


def simulated_for_garbler(answer: bool, *, bits: int, group: Group = RFC3526_2048) -> tuple[tuple[bytes, ...], bytes]:
    """What the garbler sees, made from the answer alone: uniform group elements, and the answer."""
    elements = (group.encode(group.power(group.generator, group.exponent())) for _ in range(bits))
    return tuple(elements), bytes([answer])


def flat(messages: Messages) -> bytes:
    """What the evaluator receives as one string of bytes, for statistics."""
    parts = [messages.offer]
    parts += [half.to_bytes(LABEL_BYTES, "little") for table in messages.circuit.tables for half in table]
    parts += [bytes([messages.circuit.decode])]
    parts += [label.to_bytes(LABEL_BYTES, "little") for label in messages.labels]
    parts += [sealed for pair in messages.answers for sealed in pair]
    return b"".join(parts)
