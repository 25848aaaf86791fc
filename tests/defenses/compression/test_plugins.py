"""Compression: known answers, bytes that can be read back, nothing lost with error feedback, and nothing hidden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.compression.codes import SignCode, SparseCode
from fedsec.defenses.compression.plugins import Sign, TopK, scaled_signs, top_k
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import EnforcedBy, RoundContext
from fedsec.randomness import generator


def context(d: int, clients: tuple[int, ...], buffers: int = 0, **changes: Any) -> RoundContext:
    slots = [Slot("a.weight", (d,), 0, d, True)]
    if buffers:
        slots.append(Slot("a.running_var", (buffers,), d, d + buffers, False))
    values: dict[str, Any] = {
        "round": 0, "rounds": 5, "clients": clients, "layout": Layout(tuple(slots)), "population": 10,
        "cohort": 2.0, "sampling": "all", "seed": 3,
    }  # fmt: skip
    return RoundContext(**{**values, **changes})


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=generator("compression", n, d, seed))


def test_top_k_known_answer() -> None:
    updates = torch.tensor([[0.1, -3.0, 0.0, 2.0], [5.0, 1.0, -1.5, 0.2]])
    assert torch.equal(top_k(updates, 2), torch.tensor([[0.0, -3.0, 0.0, 2.0], [5.0, 0.0, -1.5, 0.0]]))
    assert [TopK(share=s).kept(30) for s in (0.001, 0.1, 0.5, 1.0)] == [1, 3, 15, 30]


def test_sign_known_answer() -> None:
    updates = torch.tensor([[0.1, -3.0, 0.0, 0.9]])
    assert torch.equal(scaled_signs(updates), torch.tensor([[1.0, -1.0, 1.0, 1.0]]))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.integers(0, 5), st.floats(0.001, 1.0), st.sampled_from([torch.float32, torch.float64]))
def test_bytes_are_counted_and_read_back(d: int, buffers: int, share: float, dtype: torch.dtype) -> None:
    values = rows(1, d + buffers).to(dtype)
    for defense in (TopK(share=share), Sign()):
        sent = defense.seal(Plain(values, torch.tensor([7.0])), context(d, (0,), buffers))
        encoded = bytes(sent.serialise(0))
        assert len(encoded) == sent.nbytes(0)
        assert sent.code is not None
        body, weight = encoded[: -dtype.itemsize], encoded[-dtype.itemsize :]
        assert torch.equal(sent.code.decode(body), sent.values[0])
        assert torch.frombuffer(bytearray(weight), dtype=dtype)[0] == 7.0
        # buffers travel as they are
        assert torch.equal(sent.values[0, d:], values[0, d:])
        assert sent.rows([0]).nbytes(0) == sent.nbytes(0)


def test_sizes_by_hand() -> None:
    d = 6400
    few = TopK(share=0.01).seal(Plain(rows(1, d), torch.ones(1)), context(d, (0,)))
    assert few.nbytes(0) == 4 + 64 * (4 + 4) + 4
    many = TopK(share=0.1).seal(Plain(rows(1, d), torch.ones(1)), context(d, (0,)))
    assert many.nbytes(0) == 4 + d // 8 + 640 * 4 + 4
    assert Sign().seal(Plain(rows(1, d), torch.ones(1)), context(d, (0,))).nbytes(0) == 4 + d // 8 + 4
    assert SparseCode(d, d, torch.float32).nbytes(torch.zeros(d)) == 4
    assert SignCode(d + 2, d, torch.float32).nbytes(torch.zeros(d + 2)) == 4 + d // 8 + 8


@pytest.mark.parametrize("defense", [TopK(share=0.1, error_feedback=True), Sign(error_feedback=True)])
def test_error_feedback_loses_nothing(defense: TopK | Sign) -> None:
    d, state = 40, dict[str, torch.Tensor]()
    given_, sent = torch.zeros(2, d), torch.zeros(2, d)
    for number in range(6):
        updates = rows(2, d, number)
        # chunks of one client give what one chunk of both gives
        chunks = [((3,), updates[:1]), ((8,), updates[1:])] if number % 2 else [((3, 8), updates)]
        parts = [
            defense.seal(Plain(chunk, torch.ones(len(ids))), context(d, ids, round=number, state=state)).values
            for ids, chunk in chunks
        ]
        given_, sent = given_ + updates, sent + torch.cat(parts)
    left = torch.stack([state["left out/3"], state["left out/8"]])
    torch.testing.assert_close(sent + left, given_, atol=1e-5, rtol=0)
    assert left.norm() > 0


def test_without_error_feedback_nothing_is_remembered() -> None:
    state = dict[str, torch.Tensor]()
    first = TopK(share=0.2).seal(Plain(rows(1, 10), torch.ones(1)), context(10, (0,), state=state))
    again = TopK(share=0.2).seal(Plain(rows(1, 10), torch.ones(1)), context(10, (0,), state=state, round=1))
    assert not state
    assert torch.equal(first.values, again.values)


def test_error_feedback_reaches_the_minimum_where_plain_signs_do_not() -> None:
    """In the spirit of counterexample 2 of Karimireddy et al. 2019: two examples of a least-squares problem in turn.

    Every gradient lies along (1, -0.5) or (-0.5, 1), so every sign vector is (1, -1) or (-1, 1), and the sum of the
    coordinates never moves from 2 to the minimum's 0.
    """
    directions = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])

    def descend(defense: Sign) -> torch.Tensor:
        x, state = torch.tensor([1.0, 1.0]), dict[str, torch.Tensor]()
        for number in range(400):
            a = directions[number % 2]
            update = -0.2 * (a @ x) * a
            ctx = context(2, (0,), round=number, state=state)
            x = x + defense.seal(Plain(update[None], torch.ones(1)), ctx).values[0]
        return x

    assert float(descend(Sign()).sum()) == pytest.approx(2.0, abs=1e-4)
    assert float(descend(Sign(error_feedback=True)).norm()) < 1e-2


def test_neither_hides_what_an_update_of_one_example_says() -> None:
    """A linear layer's row still divides to the input where it is kept, and signs still name the label."""
    x = torch.rand(20, generator=generator("x")) + 0.1
    residual = torch.tensor([0.2, -0.9, 0.3, 0.4])  # softmax minus one-hot: the label is 1
    gradient = torch.cat([torch.outer(residual, x).flatten(), residual])
    update = -gradient[None]
    kept = TopK(share=0.9).seal(Plain(update, torch.ones(1)), context(84, (0,))).values[0]
    weight, bias = kept[:80].view(4, 20), kept[80:]
    assert torch.allclose(weight[1] / bias[1], x, atol=1e-6)
    signs = Sign().seal(Plain(update, torch.ones(1)), context(84, (0,))).values[0]
    assert int((signs[80:] > 0).nonzero().flatten()[0]) == 1


def test_only_honest_clients_are_bound_and_the_name_is_the_registry_s() -> None:
    for defense in (TopK(), Sign()):
        assert defense.enforcement == EnforcedBy.CLIENT
        assert defense.guarantee.protects.startswith("nothing")
