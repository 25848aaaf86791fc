"""FoolsGold: a slow reading of algorithm 1, its memory, and where it cannot help."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.defenses.aggregation import foolsgold_weights
from fedsec.defenses.aggregation.foolsgold import FoolsGold, feature_importance, foolsgold
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext, Setting
from fedsec.randomness import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "foolsgold"))


def slow_weights(history, *, pardoning=True, logit=True):
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
            if pardoning and v[i] < v[j]:
                cs[i][j] *= v[i] / v[j]
    a = [min(1.0, max(0.0, 1.0 - max(row))) for row in cs]
    top = max(a)
    if not logit:
        return [x / top for x in a]
    a = [0.99 if x / top == 1.0 else x / top for x in a]
    return [min(1.0, max(0.0, math.log(x / (1 - x) + 1e-5) + 0.5)) for x in a]


def context(clients, state=None, size=20, rounds=0, model=None):
    slots = (Slot("first.weight", (size - 4,), 0, size - 4, True), Slot("last.weight", (2, 2), size - 4, size, True))
    return RoundContext(
        round=rounds, rounds=5, clients=clients, layout=Layout(slots), population=20, cohort=10.0, sampling="all",
        seed=1, state={} if state is None else state, model=model,
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


@given(n=st.integers(2, 9), pardoning=st.booleans(), logit=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_ablations_equal_algorithm_1_without_that_step(n, pardoning, logit, seed):
    U = torch.cat([normal(n, 15, seed=seed), normal(1, 15, seed=seed + 1) + 0.3 * normal(2, 15, seed=seed + 2)])
    weights = torch.tensor(slow_weights(U, pardoning=pardoning, logit=logit), dtype=torch.float64)
    clients = tuple(range(len(U)))
    total = weights @ U.double()
    for undivided, expected in ((True, total), (False, total / weights.sum())):
        flags = {"pardoning": pardoning, "logit": logit, "undivided": undivided}
        torch.testing.assert_close(foolsgold(U, **flags).double(), expected, rtol=1e-5, atol=1e-6)
        ctx = context(clients, size=15)
        result = FoolsGold(pardoning=pardoning, logit=logit, sum=undivided).aggregate(cohort(clients, U), ctx).values[0]
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)
        suspicion = [ctx.report[f"score:{client}"] for client in clients]
        np.testing.assert_allclose(suspicion, 1 - weights.numpy(), atol=1e-9)


def test_without_memory_only_the_round_is_compared():
    defense, state = FoolsGold(memory=False), {}
    for seed in range(3):
        values = normal(5, 20, seed=seed)
        result = defense.aggregate(cohort(tuple(range(5)), values), context(tuple(range(5)), state, rounds=seed))
        torch.testing.assert_close(result.values[0], foolsgold(values))
    assert state == {}


def test_without_memory_noise_hides_sybils_for_ever():
    """The other half of the memory ablation: after sixty rounds they are where they were after one."""
    aim, honest = torch.ones(20), torch.eye(6, 20) * 3
    for number in range(60):
        noise = 1.5 * normal(2, 20, seed=100 + number)
        values = torch.cat([honest + 0.1 * normal(6, 20, seed=500 + number), aim + noise])
        ctx = context(tuple(range(8)), {}, rounds=number)
        FoolsGold(memory=False).aggregate(cohort(tuple(range(8)), values), ctx)
        if number in (0, 59):
            assert not {"excluded:6", "excluded:7"} <= set(ctx.report)


def test_without_pardoning_honest_clients_suffer_for_a_likeness_to_sybils():
    """One honest client is like nobody; the others point a little towards the Sybils."""
    attack = torch.ones(1, 20)
    honest = torch.cat([torch.eye(5, 20) * 2 + 0.2 * attack, -attack])
    values, clients = torch.cat([honest, attack.repeat(4, 1)]), tuple(range(10))
    kept = {}
    for pardoning in (True, False):
        ctx = context(clients)
        FoolsGold(pardoning=pardoning, logit=False).aggregate(cohort(clients, values), ctx)
        kept[pardoning] = [1 - ctx.report[f"score:{client}"] for client in clients]
    assert max(kept[True][6:] + kept[False][6:]) < 1e-6
    assert min(kept[True][:5]) > max(kept[False][:5]) + 0.1


def test_feature_importance_is_the_distance_to_the_mean_of_a_class():
    weights = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    expected = [[2 / 6, 1 / 6, 0, 3 / 6], [1, 1, 1, 1]]
    assert feature_importance(weights, 1.0).tolist() == [pytest.approx(row) for row in expected]
    assert feature_importance(weights, 0.5).tolist() == [pytest.approx([2 / 6, 0, 0, 3 / 6]), [1, 1, 1, 1]]
    assert feature_importance(weights, 0.01)[0].tolist() == pytest.approx([0, 0, 0, 0.5])


def test_importance_leaves_out_what_the_model_does_not_use():
    """Sybils disguise themselves in the feature of each class that is nearest its mean; importance does not see it."""
    layout = Layout((Slot("last.weight", (1, 4), 0, 4, True),))
    model = torch.tensor([3.0, -3.0, 1.0, -1.1])
    values = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [1, 1, 9, 0], [1, 1, -9, 0]])
    clients = (0, 1, 2, 3)
    scores = {}
    for importance in (None, 0.5):
        ctx = dataclasses.replace(context(clients, model=model), layout=layout)
        FoolsGold(features="last-layer", importance=importance).aggregate(cohort(clients, values), ctx)
        scores[importance] = [ctx.report[f"score:{client}"] for client in clients]
    assert scores[None] == [0.0] * 4
    assert scores[0.5][2:] == [1.0, 1.0]
    assert scores[0.5][:2] == [0.0, 0.0]
    with pytest.raises(ValueError, match="global model"):
        FoolsGold(features="last-layer", importance=0.5).aggregate(cohort(clients, values), context(clients))


def test_importance_is_refused_where_there_is_none():
    def found(defense, shape):
        layout = Layout((Slot("last.weight", shape, 0, 4, True),))
        return defense.problems(
            Setting(
                population=20, cohort=10, rounds=5, sampling="fixed", layout=layout, local_steps=1, batch_size=None,
                has_batch_norm=False, task="classification", bounds=None, stack=("foolsgold",),
            )
        )  # fmt: skip

    assert "last-layer" in found(FoolsGold(importance=0.5), (2, 2))[0][1]
    assert "matrix of weights" in found(FoolsGold(importance=0.5, features="last-layer"), (4,))[0][0]
    assert not found(FoolsGold(importance=0.5, features="last-layer"), (2, 2))
