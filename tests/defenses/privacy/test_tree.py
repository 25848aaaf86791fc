"""Tree noise and what it costs, against trees written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from fedsec.defenses.privacy.ftrl import TreeDP
from fedsec.defenses.privacy.tree import finished_nodes, noise_of_round, prefix_noise, tree_sensitivity
from fedsec.epsilon.gaussian import gaussian_epsilon
from fedsec.errors import ConfigurationError
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import RoundContext, Setting

Contexts = Callable[..., RoundContext]
Settings = Callable[..., Setting]


def nodes_of(rounds: int) -> set[tuple[int, int]]:
    """Every node that some prefix finishes."""
    return {node for done in range(1, rounds + 1) for node in finished_nodes(done)}


def covered(node: tuple[int, int]) -> range:
    level, index = node
    return range(index << level, (index + 1) << level)


def moved(rounds: int, taken: tuple[int, ...]) -> float:
    """How far a client that counts in these rounds moves all nodes, written out."""
    return math.sqrt(sum(len(set(taken) & set(covered(node))) ** 2 for node in nodes_of(rounds)))


@given(st.integers(1, 300))
def test_a_prefix_is_covered_once(rounds: int) -> None:
    nodes = finished_nodes(rounds)
    assert sorted(itertools.chain.from_iterable(covered(node) for node in nodes)) == list(range(rounds))
    assert len(nodes) == rounds.bit_count()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_no_pattern_moves_the_tree_farther(rounds: int, participations: int, separation: int) -> None:
    """Against all patterns; the bound is met by counting once, and by counting always."""
    bound = tree_sensitivity(rounds, participations=participations, separation=separation)
    worst = 0.0
    for count in range(1, min(participations, rounds) + 1):
        for taken in itertools.combinations(range(rounds), count):
            if all(b - a >= separation for a, b in itertools.pairwise(taken)):
                worst = max(worst, moved(rounds, taken))
    assert worst <= bound * (1 + 1e-12)
    assert bound <= 1.75 * worst
    if participations == 1 or (participations >= rounds and separation == 1):
        assert bound == pytest.approx(worst)


def test_known_sensitivities() -> None:
    assert tree_sensitivity(1, participations=1) == 1
    assert tree_sensitivity(1000, participations=1) == pytest.approx(math.sqrt(10))
    assert tree_sensitivity(1024, participations=1) == pytest.approx(math.sqrt(11))
    assert tree_sensitivity(4, participations=4) == pytest.approx(math.sqrt(2 + 4 + 16))
    assert tree_sensitivity(8, participations=2, separation=4) == pytest.approx(math.sqrt(2 + 2 + 1 + 4))


def test_increments_add_up_to_the_noise_of_the_sum() -> None:
    like = torch.zeros(7, dtype=torch.float64)
    total = torch.zeros_like(like)
    for number in range(13):
        total += noise_of_round(number, like, seed=3)
        assert torch.allclose(total, prefix_noise(number + 1, like, seed=3), atol=1e-12)
    assert not torch.equal(prefix_noise(1, like, seed=3), prefix_noise(1, like, seed=4))


@pytest.mark.parametrize("rounds", [1, 7, 8])
def test_noise_of_the_model_has_one_variance_per_node(context: Contexts, rounds: int) -> None:
    """What the released model carries after all rounds, and no more than its digits say."""
    d, defense, model = 20_000, TreeDP(noise_multiplier=2.0, clip_norm=0.5), 0.0
    for number in range(rounds):
        told = context(d, (), cohort=4.0, round=number, rounds=rounds)
        model = model + defense.open(Plain(torch.zeros(1, d), torch.tensor([4.0])), told).values.double()
    claimed = 2.0 * 0.5 * math.sqrt(rounds.bit_count()) / 4
    low, high = chi2.ppf([1e-4, 1 - 1e-4], d)
    assert low < float((model**2).sum()) / claimed**2 < high  # type: ignore[union-attr]


def test_the_denominator_is_the_expected_cohort(context: Contexts) -> None:
    values = 0.1 * torch.ones(2, 3)
    told = context(3, (0, 1), cohort=5.0)
    defense = TreeDP(noise_multiplier=0.05)
    sealed = defense.seal(Plain(values, torch.tensor([3.0, 9.0])), told)
    assert torch.equal(sealed.weights, torch.ones(2))
    opened = defense.open(Plain(sealed.values.mean(0)[None], torch.tensor([2.0])), told)
    noise = noise_of_round(0, torch.zeros(3), seed=told.seed)
    assert torch.allclose(opened.values[0], (0.2 + 0.05 * noise) / 5)


def test_clients_count_as_often_as_they_may(context: Contexts) -> None:
    """Two of five rounds at the most, three apart: the others are sent as zeros, whoever comes with whom."""
    defense, state = TreeDP(participations=2, separation=3), {}
    sent = []
    for number in range(8):
        for clients in ((0,), (1,)) if number % 2 else ((0, 1),):
            told = context(2, clients, round=number, rounds=8, state=state)
            sealed = defense.seal(Plain(torch.full((len(clients), 2), 0.1), torch.ones(len(clients))), told)
            sent.extend((number, client) for client, row in zip(clients, sealed.values, strict=True) if row.any())
    assert sent == [(0, 0), (0, 1), (3, 0), (3, 1)]


def test_claims(setting: Settings) -> None:
    """Exact for the tree; sampling changes nothing; counting once is cheap, counting always dear."""
    always, once = TreeDP(), TreeDP(participations=1)
    claimed = once.claims(setting())
    assert claimed["epsilon"] == gaussian_epsilon(math.sqrt(7), 1e-4)
    assert once.claims(setting(sampling="all", cohort=1000))["epsilon"] == claimed["epsilon"]
    assert float(always.claims(setting())["epsilon"]) > 10 * float(claimed["epsilon"])
    spaced = TreeDP(participations=4, separation=20).claims(setting())
    assert float(claimed["epsilon"]) < float(spaced["epsilon"]) < 4 * float(claimed["epsilon"])
    more = [float(once.claims(setting(rounds=t))["epsilon"]) for t in (1, 10, 1000)]
    assert more[0] < more[1] < more[2]
    budget = TreeDP(epsilon=3.0, participations=3).claims(setting())
    assert float(budget["epsilon"]) == pytest.approx(3.0, rel=1e-6)
    assert budget["unit"] == "client"


def test_refusals(setting: Settings) -> None:
    assert not TreeDP().problems(setting())
    assert "batch-norm" in TreeDP().problems(setting(has_batch_norm=True))[0][0]
    assert "krum replaces the mean" in TreeDP().problems(setting(stack=("dp-ftrl", "krum")))[0][0]
    with pytest.raises(ConfigurationError, match="each determines the other"):
        TreeDP(epsilon=1.0, noise_multiplier=1.0)
