"""The poisoning adversaries: what they read, what they send, what they do when little is known."""

import dataclasses

import numpy as np
import pytest
import torch

from fedsec.attacks.poisoning import alie, flip_labels, ipm, min_max, min_sum
from fedsec.attacks.poisoning.label_flip import LabelFlip, TargetedLabelFlip
from fedsec.attacks.poisoning.model import (
    MEMORY,
    ALittleIsEnough,
    InnerProductManipulation,
    MinMax,
    MinSum,
    SignFlip,
)
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import ConfigurationError, NotKnownError
from fedsec.models.flat import FlatModel
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import CoalitionView
from fedsec.randomness import generator
from fedsec.threat import Knowledge

SHARED = (ALittleIsEnough, InnerProductManipulation, MinMax, MinSum)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "attack plugins"))


def facts(task="classification", classes=10):
    info = DatasetInfo(
        name="toy", summary="", task=task, input_shape=(2,), classes=tuple(map(str, range(classes))), bounds=None,
        modality="tabular", vocabulary=50 if task == "next-token" else 0,
    )  # fmt: skip
    model = FlatModel.of(torch.nn.Linear(2, 3), task="classification", name="softmax")
    return PublicFacts(
        info=info, model=model, initial=torch.zeros(9), stack=(), population=20, cohort=10, rounds=5, rule="mean",
        knowledge=frozenset(),
    )  # fmt: skip


def coalition(own, *, n=20, honest=None, state=None, sybils=0):
    k = len(own)
    return CoalitionView(
        round=0, clients=tuple(range(k)), own=own, weights=torch.ones(k), model=torch.zeros(own.shape[1]),
        honest=honest, expected_cohort=n, state={} if state is None else state, is_sybil=torch.arange(k) >= k - sybils,
    )  # fmt: skip


def craft(adversary, view):
    return adversary.craft(view, facts(), generator=generator(1))


def test_sign_flip_flips_each_clients_own_update():
    own = normal(4, 9)
    before = own.clone()
    torch.testing.assert_close(craft(SignFlip(scale=3.0), coalition(own)), -3 * own)
    assert torch.equal(own, before)


@pytest.mark.parametrize(
    ("adversary", "vector"),
    [
        (ALittleIsEnough(), lambda H: alie(H, f=6, n=20)),
        (ALittleIsEnough(z=1.0), lambda H: alie(H, f=6, n=20, z=1.0)),
        (InnerProductManipulation(), lambda H: ipm(H, f=6, n=20)),
        (MinMax(), lambda H: min_max(H, f=6, n=20)),
        (MinSum(direction="sign"), lambda H: min_sum(H, f=6, n=20, direction="sign")),
    ],
)
def test_a_shared_vector_comes_from_own_updates_or_from_the_honest_ones(adversary, vector):
    own, honest = normal(6, 9), normal(14, 9, seed=1) + 1
    sent = craft(adversary, coalition(own, honest=honest))
    torch.testing.assert_close(sent, vector(own).expand(6, 9))
    omniscient = dataclasses.replace(adversary, omniscient=True)
    torch.testing.assert_close(craft(omniscient, coalition(own, honest=honest)), vector(honest).expand(6, 9))


@pytest.mark.parametrize("kind", SHARED)
def test_omniscience_is_declared_and_never_assumed(kind):
    assert Knowledge.HONEST_UPDATES in kind.threat.knowledge
    assert not kind().omniscient
    with pytest.raises(NotKnownError, match="honest updates"):
        craft(kind(omniscient=True), coalition(normal(3, 9)))


@pytest.mark.parametrize("kind", [ALittleIsEnough, MinMax, MinSum])
def test_a_lone_client_learns_the_spread_over_rounds(kind):
    state = {}
    rows = normal(12, 9)
    first = craft(kind(), coalition(rows[:1], state=state))
    torch.testing.assert_close(first, rows[:1])
    second = craft(kind(), coalition(rows[1:2], state=state))
    assert not torch.allclose(second, rows[1:2])
    torch.testing.assert_close(second, craft(kind(), coalition(rows[[1]], state={"own updates": rows[:1].clone()})))
    for row in range(2, 12):
        craft(kind(), coalition(rows[row : row + 1], state=state))
    torch.testing.assert_close(state["own updates"], rows[[11, 10, 9, 8, 7, 6, 5, 4]])
    assert len(state["own updates"]) == MEMORY


def test_sybils_do_not_narrow_the_spread():
    own = torch.cat([normal(4, 9), normal(1, 9, seed=3).repeat(6, 1)])
    sent = craft(ALittleIsEnough(z=1.0), coalition(own, sybils=6))
    torch.testing.assert_close(sent[0], alie(own[:4], f=10, n=20, z=1.0))


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 2), (2, 2), (9, 10), (12, 5)])
def test_majorities_and_tiny_rounds_still_send_something_finite(kind, k, n):
    state = {"own updates": normal(2, 9, seed=7)}
    sent = craft(kind(), coalition(normal(k, 9), n=n, state=state))
    assert sent.shape == (k, 9)
    assert torch.isfinite(sent).all()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_label_flips(classes):
    y = torch.arange(classes).repeat(50)
    shift = flip_labels(y, classes=classes, mode="shift", generator=generator(0))
    np.testing.assert_array_equal(shift, (y.numpy() + 1) % classes)
    reverse = flip_labels(y, classes=classes, mode="reverse", generator=generator(0))
    np.testing.assert_array_equal(reverse, classes - 1 - y.numpy())
    random = flip_labels(y, classes=classes, mode="random", generator=generator(0))
    assert bool((random != y).all())
    assert set(random.tolist()) == set(range(classes))
    assert torch.equal(random, flip_labels(y, classes=classes, mode="random", generator=generator(0)))


def test_label_flip_poisons_labels_and_nothing_else():
    shard = Examples(normal(6, 2), torch.tensor([0, 1, 2, 9, 9, 5]), {"sex": torch.zeros(6, dtype=torch.int64)})
    bad = LabelFlip().poison(shard, facts(), generator=generator(0))
    assert bad.y.tolist() == [1, 2, 3, 0, 0, 6]
    assert torch.equal(bad.x, shard.x)
    assert bad.attributes == shard.attributes
    assert shard.y.tolist() == [0, 1, 2, 9, 9, 5]
    tokens = Examples(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[0, 49, 3], [1, 2, 3]]))
    bad = LabelFlip().poison(tokens, facts("next-token"), generator=generator(0))
    assert bad.y.tolist() == [[1, 0, 4], [2, 3, 4]]


def test_targeted_flip_and_its_goal():
    shard = Examples(normal(4, 2), torch.tensor([1, 7, 1, 3]))
    adversary = TargetedLabelFlip(source=1, target=7)
    assert adversary.poison(shard, facts(), generator=generator(0)).y.tolist() == [7, 7, 7, 3]
    assert adversary.goal() == {"source": 1, "target": 7}
    assert adversary.judge == "targeted"


def test_impossible_targets_are_refused():
    with pytest.raises(ValueError, match="must differ"):
        TargetedLabelFlip(source=2, target=2)
    shard = Examples(normal(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ConfigurationError, match="classes 0 to 2"):
        TargetedLabelFlip(source=0, target=7).poison(shard, facts(classes=3), generator=generator(0))
    with pytest.raises(ConfigurationError, match="needs classes"):
        LabelFlip().poison(Examples(normal(2, 2), normal(2)), facts("regression", 0), generator=generator(0))


@pytest.mark.parametrize("kind", [*SHARED, SignFlip, LabelFlip, TargetedLabelFlip])
def test_fraction_is_a_parameter(kind):
    assert kind().fraction == 0.2
    assert kind(fraction=0.4).spec()["fraction"] == 0.4
    assert {entry.framework for entry in kind.taxonomy} == {"nist-ai-100-2e2025", "mitre-atlas-5.6", "owasp-ml-2023"}
