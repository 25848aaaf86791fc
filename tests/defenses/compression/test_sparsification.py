"""Random coordinates and pruning: who chooses, what it costs in bytes, and what it does not hide."""

from __future__ import annotations

import pytest
import torch
from compression_scene import context_of, layout_of, received, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.compression.compression import Compression
from fedsec.defenses.compression.low_rank import LowRank, factors
from fedsec.defenses.compression.plugins import Sign, TopK
from fedsec.defenses.compression.quantisation import Quantize8Bit
from fedsec.defenses.compression.sparsification import Prune, RandomK, prune_smallest
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Setting
from fedsec.randomness import generator


def sealed(defense: Compression, values: torch.Tensor, layout, clients=(0,), **changes) -> Plain:
    return defense.seal(Plain(values, torch.ones(len(values))), context_of(layout, tuple(clients), **changes))


def every() -> list[Compression]:
    return [
        RandomK(share=0.3),
        RandomK(share=0.3, shared=False),
        RandomK(share=0.3, error_feedback=True),
        Prune(share=0.6),
        Prune(share=0.6, mask="public"),
        LowRank(rank=1),
        LowRank(rank=3, iterations=1),
    ]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 4), st.sampled_from([torch.float32, torch.float64]))
def test_bytes_are_counted_and_read_back(m, k, buffers, dtype) -> None:
    layout = layout_of((m, k), (m,), (2, 3, 2, 2), buffers=buffers)
    values = rows(2, layout.size, m, dtype)
    for defense in every():
        sent = sealed(defense, values, layout, (4, 9))
        for row in range(2):
            assert torch.equal(received(sent, row), sent.values[row])
        assert torch.equal(sent.values[:, layout.trainable :], values[:, layout.trainable :])
        one = sent.rows([1])
        assert torch.equal(received(one, 0), sent.values[1])


def test_sizes_by_hand() -> None:
    layout = layout_of((20, 50), (20,))
    values = rows(1, 1020)
    assert sealed(RandomK(share=0.1), values, layout).nbytes(0) == 102 * 4 + 4
    assert sealed(RandomK(share=0.01, shared=False), values, layout).nbytes(0) == 4 + 11 * 8 + 4
    assert sealed(Prune(share=0.9, mask="public"), values, layout).nbytes(0) == (100 + 20) * 4 + 4
    assert sealed(LowRank(rank=2), values, layout).nbytes(0) == (2 * 70 + 20) * 4 + 4
    # factors that are no smaller than the matrix are not sent
    assert sealed(LowRank(rank=15), values, layout).nbytes(0) == 1020 * 4 + 4
    assert torch.equal(sealed(LowRank(rank=15), values, layout).values, values)


def test_random_k_is_right_on_average_and_as_loud_as_it_must_be() -> None:
    layout, values = layout_of((24,)), rows(1, 24)
    shared, own = RandomK(share=0.25), RandomK(share=0.25, shared=False)
    for defense, draws in (
        (shared, torch.cat([sealed(shared, values, layout, round=r).values for r in range(1000)]).double()),
        (own, sealed(own, values.expand(1000, -1), layout, range(1000)).values.double()),
    ):
        assert bool((torch.count_nonzero(draws, dim=1) == 6).all())
        assert bool(((draws.mean(0) - values[0]).abs() <= 5 * draws.std(0) / 1000**0.5).all())
        # E|C(v) - v|^2 = (d / k - 1) |v|^2
        assert (draws - values[0]).square().sum(1).mean() == pytest.approx(3 * float(values.square().sum()), rel=0.1)
        assert defense.unbiased
    memory = sealed(RandomK(share=0.25, error_feedback=True), values, layout).values[0]
    assert torch.equal(memory[memory != 0], values[0][memory != 0])


def test_shared_coordinates_are_the_same_for_all_and_new_every_round() -> None:
    layout, values = layout_of((200,)), rows(2, 200)
    places = [
        sealed(RandomK(share=0.1, shared=shared), values, layout, (3, 8), round=number).values != 0
        for shared in (True, False)
        for number in (0, 1)
    ]
    assert torch.equal(places[0][0], places[0][1])
    assert not torch.equal(places[0], places[1])
    assert not torch.equal(places[2][0], places[2][1])


def test_pruning_known_answers() -> None:
    layout = layout_of((2, 3), (2,))
    updates = torch.tensor([[0.1, -3.0, 2.0, 0.2, 0.0, 1.0, 0.01, 0.02]])
    expected = torch.tensor([[0.0, -3.0, 2.0, 0.0, 0.0, 1.0, 0.01, 0.02]])
    assert torch.equal(prune_smallest(updates, layout, 0.5), expected)
    assert torch.equal(sealed(Prune(share=0.0), updates, layout).values, updates)
    masks = [
        sealed(Prune(share=0.5, mask="public"), torch.ones(2, 8), layout, (1, 5), round=number).values
        for number in (0, 3)
    ]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0][0], masks[0][1])
    assert masks[0][0].sum() == 3 + 2


def test_low_rank_of_low_rank_is_itself_and_power_iteration_nears_the_best() -> None:
    a, b = rows(30, 2, 1, torch.float64), rows(20, 2, 2, torch.float64)
    p, q = factors(a @ b.mT, 2, iterations=1, source=generator("start"))
    torch.testing.assert_close(p @ q.mT, a @ b.mT)
    torch.testing.assert_close(p.mT @ p, torch.eye(2, dtype=torch.float64))
    decaying = rows(30, 20, 3, torch.float64) @ torch.diag(0.5 ** torch.arange(20.0, dtype=torch.float64))
    tail = torch.linalg.svdvals(decaying)[3:].norm()
    errors = []
    for iterations in (1, 4):
        p, q = factors(decaying, 3, iterations=iterations, source=generator("start"))
        errors.append((p @ q.mT - decaying).norm())
    assert tail * (1 - 1e-12) <= errors[1] <= 1.02 * tail
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "defense",
    [
        RandomK(share=0.1, error_feedback=True),
        Prune(share=0.9, error_feedback=True),
        LowRank(rank=1, error_feedback=True),
        Quantize8Bit(rounding="nearest", error_feedback=True),
    ],
)
def test_error_feedback_loses_nothing(defense: Compression) -> None:
    """What was sent and what is left sum to what was given, client by client, whatever the chunks."""
    layout, state = layout_of((6, 6), (4,)), dict[str, torch.Tensor]()
    given_, sent = torch.zeros(2, 40), torch.zeros(2, 40)
    for number in range(6):
        updates = rows(2, 40, number)
        chunks = [((3,), updates[:1]), ((8,), updates[1:])] if number % 2 else [((3, 8), updates)]
        parts = [sealed(defense, part, layout, ids, round=number, state=state).values for ids, part in chunks]
        given_, sent = given_ + updates, sent + torch.cat(parts)
    left = torch.stack([state["left out/3"], state["left out/8"]])
    torch.testing.assert_close(sent + left, given_, atol=1e-5, rtol=0)
    assert left.norm() > 0
    # what is held back stays of the size of an update
    assert left.norm() < 12 * rows(2, 40).norm()
    assert not defense.unbiased


def setting(**changes) -> Setting:
    values = {
        "population": 10, "cohort": 2.0, "rounds": 5, "sampling": "fixed", "layout": layout_of((3, 3)),
        "local_steps": 1, "batch_size": 8, "has_batch_norm": False, "task": "classification", "bounds": (0.0, 1.0),
        "stack": (),
    }  # fmt: skip
    return Setting(**{**values, **changes})


def test_error_feedback_of_clients_that_do_not_return_is_refused() -> None:
    ((found, instead),) = TopK(error_feedback=True).problems(setting())
    assert "takes part 1 times" in found
    assert "random-k" in instead
    assert not TopK(error_feedback=True).problems(setting(rounds=10))
    assert not TopK().problems(setting())
    ((found, _),) = Prune(error_feedback=True, mask="public").problems(setting(rounds=10))
    assert "never sent" in found


def test_claims_say_what_is_unbiased() -> None:
    claims = {
        "unbiased": [RandomK(), RandomK(shared=False), Quantize8Bit(), TopK(share=1.0)],
        "biased": [TopK(), Sign(), Prune(), LowRank(), RandomK(error_feedback=True), Quantize8Bit(rounding="nearest")],
    }
    for expected, defenses in claims.items():
        assert [d.claims(setting())["estimator"] for d in defenses] == [expected] * len(defenses)


def test_none_of_them_hides_one_example_behind_a_linear_layer() -> None:
    """Rows of rank one divide to the input where they are kept; low rank keeps them almost whole."""
    x = torch.rand(20, generator=generator("x")) + 0.1
    residual = torch.tensor([0.2, -0.9, 0.3, 0.4])
    update = -torch.cat([torch.outer(residual, x).flatten(), residual])[None]
    layout = layout_of((4, 20), (4,))
    kept = sealed(LowRank(rank=1), update, layout).values[0]
    assert torch.allclose(kept[20:40] / kept[81], x, atol=1e-4)
    for defense in (RandomK(share=0.6), Prune(share=0.3), Prune(share=0.3, mask="public")):
        sent = sealed(defense, update, layout).values[0]
        scale = 84 / 51 if isinstance(defense, RandomK) else 1.0
        row = sent[20:40] / (update[0, 81] * scale)
        seen = row != 0
        assert seen.sum() >= 6
        assert torch.allclose(row[seen], x[seen], atol=1e-5)
