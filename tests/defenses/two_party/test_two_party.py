"""The millionaires' problem: right for all pairs, and views that can be made from input and answer alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from fedsec.defenses.two_party.garbling import evaluate, garble
from fedsec.defenses.two_party.millionaires import (
    flat,
    richer,
    simulated_for_evaluator,
    simulated_for_garbler,
)
from fedsec.defenses.two_party.oblivious_transfer import RFC3526_2048, Group, Receiver, Sender, is_square

TOY = Group(2 * 1019 + 1)
"""Squares modulo 2039: small enough to list."""


def test_the_garbled_comparison_is_right_for_all_pairs_of_8_bit_values() -> None:
    """65,536 pairs, a fresh circuit for each value of the garbler."""
    for first in range(256):
        circuit, wires = garble(8)
        labels, pairs = wires.labels(first), wires.pairs()
        for second in range(256):
            own = [pair[second >> bit & 1] for bit, pair in enumerate(pairs)]
            assert evaluate(circuit, labels, own) == (first > second)


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(1, 64), data=st.data())
def test_the_whole_protocol(bits: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, 2**bits - 1))
    second = data.draw(st.integers(0, 2**bits - 1) | st.just(first))
    answer, messages = richer(first, second, bits=bits, group=TOY)
    assert answer == (first > second)
    assert messages.result == bytes([answer])


@pytest.mark.parametrize(("first", "second"), [(255, 0), (0, 255), (128, 127), (127, 128), (77, 77)])
def test_the_whole_protocol_in_the_real_group(first: int, second: int) -> None:
    answer, messages = richer(first, second, bits=8)
    assert answer == (first > second)
    # per bit: a 256-byte choice, two sealed labels, two halves of a gate, a label
    expected = {"offer": 256, "choices": 2048, "circuit": 257, "labels": 128, "answers": 256, "result": 1}
    assert messages.nbytes() == expected


def test_numbers_that_do_not_fit() -> None:
    for pair in ((256, 0), (0, 256), (-1, 0)):
        with pytest.raises(ValueError, match="8 bits"):
            richer(*pair, bits=8, group=TOY)


def test_the_group_is_what_the_standard_says() -> None:
    """RFC 3526, group 14: 2^2048 - 2^1984 - 1 + 2^64 ([2^1918 pi] + 124476), a safe prime."""
    prime = RFC3526_2048.prime
    assert prime.bit_length() == 2048
    assert prime == 2**2048 - 2**1984 - 1 + 2**64 * (pi_bits(1918) + 124476)
    for base in (2, 3, 5, 7):
        assert pow(base, prime - 1, prime) == 1
        assert pow(base, RFC3526_2048.order - 1, RFC3526_2048.order) == 1
    assert pow(RFC3526_2048.generator, RFC3526_2048.order, prime) == 1


def pi_bits(bits: int) -> int:
    """``floor(2**bits pi)`` by Machin's formula, in integers."""
    unit = 1 << (bits + 64)

    def arctan(inverse: int) -> int:
        total, term, n, sign = 0, unit // inverse, 1, 1
        while term:
            total, term, n, sign = total + sign * (term // n), term // inverse**2, n + 2, -sign
        return total

    return (4 * (4 * arctan(5) - arctan(239))) >> 64


def test_a_choice_is_perfectly_hidden() -> None:
    """In the toy group every element is as likely for one choice as for the other: all exponents are listed."""
    offered = TOY.power(TOY.generator, 123)
    zero = {TOY.power(TOY.generator, b) for b in range(TOY.order)}
    one = {TOY.power(TOY.generator, b) * offered % TOY.prime for b in range(TOY.order)}
    assert zero == one
    assert len(zero) == TOY.order


@given(choices=st.lists(st.booleans(), min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_the_receiver_reads_what_it_chose_and_not_the_other(choices: list[bool]) -> None:
    sender, receiver = Sender(TOY), Receiver(TOY)
    pairs = [(bytes([i] * 16), bytes([128 + i] * 16)) for i in range(len(choices))]
    picked = receiver.choose(sender.offer(), choices)
    answers = sender.answer(picked, pairs)
    assert receiver.read(answers) == [pair[choice] for pair, choice in zip(pairs, choices, strict=True)]
    # the key of the other message does not open under the chosen one
    swapped = [(b, a) for a, b in answers]
    assert all(got not in pair for got, pair in zip(receiver.read(swapped), pairs, strict=True))


def test_elements_are_checked() -> None:
    for bad in (0, TOY.prime - 1, TOY.prime, 5000):
        with pytest.raises(ValueError, match="not an element"):
            TOY.element(bad.to_bytes(2, "big"))
    with pytest.raises(ValueError, match="offer of 1"):
        Receiver(TOY).choose(TOY.encode(1), [True])


def test_squares_are_those_of_eulers_criterion() -> None:
    for prime in (3, 5, 7, 11, 13, 17, TOY.prime):
        for value in range(1, prime):
            assert is_square(value, prime) == (pow(value, (prime - 1) // 2, prime) == 1)


@pytest.mark.parametrize(("first", "second"), [(0, 5), (250, 5), (6, 5), (5, 5), (4, 5)])
def test_the_evaluators_view_is_that_of_a_simulator(first: int, second: int) -> None:
    """Bit by bit: how often each bit of the view is 1, with the real garbler and with one that knows only the answer.

    All bits of tables, labels and sealed labels are uniform in both, the simulated circuit gives the answer, and the
    evaluator cannot tell from the sealed pairs either.
    """
    runs, bits = 600, 8
    answer = first > second
    real = [richer(first, second, bits=bits, group=TOY)[1] for _ in range(runs)]
    fake = [simulated_for_evaluator(second, answer, bits=bits, group=TOY) for _ in range(runs)]
    counts = []
    for views in (real, fake):
        strings = [flat(view)[TOY.element_bytes :] for view in views]
        assert len({len(string) for string in strings}) == 1
        unpacked = np.unpackbits(np.frombuffer(b"".join(strings), np.uint8).reshape(runs, -1), axis=1)
        # the byte of the colour is one bit and seven zeros
        counts.append(np.delete(unpacked.sum(axis=0), np.s_[8 * 256 + 0 : 8 * 256 + 7]))
    for count in counts:
        deviation = np.abs(count - runs / 2) / np.sqrt(runs / 4)
        assert deviation.max() < 5.5
    difference = np.abs(counts[0] - counts[1].astype(np.int64)) / np.sqrt(runs / 2)
    assert difference.max() < 5.5


def test_the_simulated_circuit_gives_the_answer_that_it_was_given() -> None:
    """The evaluator's own machine, run on what the simulator sends, ends where the real one would."""
    for second in (0, 7, 255):
        for answer in (False, True):
            receiver = Receiver(TOY)
            view = simulated_for_evaluator(second, answer, bits=8, group=TOY, receiver=receiver)
            own = [int.from_bytes(label, "little") for label in receiver.read(view.answers)]
            assert evaluate(view.circuit, view.labels, own) == answer


def test_the_garblers_view_is_that_of_a_simulator() -> None:
    """Group elements of the choices, whatever the evaluator's number: one distribution (chi-square)."""
    bits, runs = 8, 400
    tables = []
    for second in (0, 255):
        seen = [richer(3, second, bits=bits, group=TOY)[1].choices for _ in range(runs)]
        tables.append(np.bincount([int.from_bytes(m, "big") % 32 for view in seen for m in view], minlength=32))
    fake = [simulated_for_garbler(False, bits=bits, group=TOY) for _ in range(runs)]
    tables.append(np.bincount([int.from_bytes(m, "big") % 32 for view, _ in fake for m in view], minlength=32))
    assert chi2_contingency(np.array(tables)).pvalue > 1e-6
    assert all(result == b"\0" for _, result in fake)


def test_labels_look_uniform() -> None:
    circuit, wires = garble(4096)
    halves = np.array([half & 255 for table in circuit.tables for half in table])
    assert chisquare(np.bincount(halves, minlength=256)).pvalue > 1e-6
    labels = np.array([label & 255 for label in wires.labels(0)])
    assert chisquare(np.bincount(labels, minlength=256)).pvalue > 1e-6
