"""FoolsGold: a slow reading of algorithm 1, its memory, and where it cannot help."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation import foolsgold_weights
from fedsec.defenses.aggregation.foolsgold import FoolsGold
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext
from fedsec.randomness import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "foolsgold"))


def slow_weights(history):
    rows = history.double().tolist()
    n = len(rows)
    norm = [math.sqrt(sum(x * x for x in row)) for row in rows]
    cs = [
        [
            0.0 if i == j else sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / (norm[i] * norm[j])
            for j in range(n)
        ]
        for i in range(n)
    ]
    v = [max(row) + 1e-5 for row in cs]
    for i in range(n):
        for j in range(n):
            if v[i] < v[j]:
                cs[i][j] *= v[i] / v[j]
    a = [min(1.0, max(0.0, 1.0 - max(row))) for row in cs]
    top = max(a)
    a = [0.99 if x / top == 1.0 else x / top for x in a]
    return [min(1.0, max(0.0, math.log(x / (1 - x) + 1e-5) + 0.5)) for x in a]


def context(clients, state=None, size=20, rounds=0):
    slots = (Slot("first.weight", (size - 4,), 0, size - 4, True), Slot("last.weight", (4,), size - 4, size, True))
    return RoundContext(
        round=rounds, rounds=5, clients=clients, layout=Layout(slots), population=20, cohort=10.0, sampling="all",
        seed=1, state={} if state is None else state,
    )  # fmt: skip


def cohort(clients, values):
    return Cohort([(clients, Plain(values, torch.ones(len(clients))))])


@given(n=st.integers(2, 9), sybils=st.integers(0, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_weights_equal_algorithm_1(n, sybils, seed):
    history = torch.cat(
        [normal(n, 15, seed=seed), normal(1, 15, seed=seed + 1) + 0.01 * normal(sybils, 15, seed=seed + 2)]
    )
    np.testing.assert_allclose(foolsgold_weights(history).numpy(), slow_weights(history), atol=1e-9)


def test_sybils_lose_their_say_and_honest_clients_are_pardoned():
    honest = torch.eye(8, 20) + 0.2
    attack = normal(1, 20, seed=3)
    sybils = attack + 0.001 * normal(3, 20, seed=4)
    weights = foolsgold_weights(torch.cat([honest, sybils]))
    assert float(weights[8:].max()) == 0.0
    assert float(weights[:8].min()) > 0.0


def test_one_attacker_keeps_its_weight():
    weights = foolsgold_weights(torch.cat([torch.eye(8, 20), -5 * torch.ones(1, 20)]))
    assert float(weights[-1]) == 1.0


def test_identical_rows_and_zero_rows_give_no_nan():
    row = normal(1, 20)
    assert torch.equal(foolsgold_weights(row.repeat(5, 1)), torch.zeros(5, dtype=torch.float64))
    assert torch.isfinite(foolsgold_weights(torch.zeros(3, 4))).all()
    assert foolsgold_weights(row).tolist() == [1.0]


def test_memory_is_per_identity_under_partial_participation():
    defense, state = FoolsGold(), {}
    first, second = normal(3, 20, seed=5), normal(3, 20, seed=6)
    defense.aggregate(cohort((4, 7, 9), first), context((4, 7, 9), state))
    defense.aggregate(cohort((9, 2, 4), second), context((9, 2, 4), state, rounds=1))
    assert state["ids"].tolist() == [4, 7, 9, 2]
    expected = torch.stack([first[0] + second[2], first[1], first[2] + second[0], second[1]])
    torch.testing.assert_close(state["history"], expected)
    assert torch.equal(first, normal(3, 20, seed=5))


def test_memory_finds_sybils_that_a_single_round_hides():
    """Zero-mean noise hides two Sybils in each round; their sums still agree (Fung et al., the memory ablation)."""
    aim = torch.ones(20)
    defense, state = FoolsGold(), {}
    honest = torch.eye(6, 20) * 3
    for number in range(60):
        noise = 1.5 * normal(2, 20, seed=100 + number)
        values = torch.cat([honest + 0.1 * normal(6, 20, seed=500 + number), aim + noise])
        ctx = context(tuple(range(8)), state, rounds=number)
        defense.aggregate(cohort(tuple(range(8)), values), ctx)
        if number == 0:
            assert "excluded:6" not in ctx.report
    assert ctx.report["excluded:6"] == ctx.report["excluded:7"] == 1.0
    assert ctx.report["selected"] == 6.0


def test_identical_updates_give_a_reported_zero_update():
    ctx = context((0, 1, 2))
    result = FoolsGold().aggregate(cohort((0, 1, 2), normal(1, 20).repeat(3, 1)), ctx)
    assert result.values.shape == (1, 20)
    assert not result.values.any()
    assert result.weights.tolist() == [0.0]
    assert ctx.report["skipped"] == 1.0
    assert ctx.report["excluded:1"] == 1.0


def test_aggregate_is_normalised_by_the_sum_of_weights():
    values = torch.eye(4, 20)
    result = FoolsGold().aggregate(cohort((0, 1, 2, 3), values), context((0, 1, 2, 3)))
    torch.testing.assert_close(result.values[0], values.mean(dim=0))


def test_last_layer_only_compares_the_last_layer():
    values = torch.cat([normal(1, 20).repeat(3, 1)[:, :16], torch.eye(3, 4)], dim=1)
    state = {}
    ctx = context((0, 1, 2), state)
    FoolsGold(features="last-layer").aggregate(cohort((0, 1, 2), values), ctx)
    assert state["history"].shape == (3, 4)
    assert ctx.report["selected"] == 3.0
