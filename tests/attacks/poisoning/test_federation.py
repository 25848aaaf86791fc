"""Attacks against rules in a federation of a dozen lines, independent of the harness: softmax regression on digits."""

import functools

import pytest
import torch
from sklearn.datasets import load_digits

from fedsec.attacks.poisoning.crude import GaussianUpdate, ZeroUpdate
from fedsec.attacks.poisoning.fang import FangKrum, FangTrim
from fedsec.attacks.poisoning.free_rider import FreeRider
from fedsec.attacks.poisoning.known_rule import Tailored
from fedsec.attacks.poisoning.label_flip import LabelFlip, TargetedLabelFlip
from fedsec.attacks.poisoning.mimic import Mimic
from fedsec.attacks.poisoning.model import ALittleIsEnough, InnerProductManipulation, MinMax, SignFlip
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.defenses.aggregation import coordinate_median, geometric_median, krum, mean, multi_krum
from fedsec.models.flat import FlatModel
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import CoalitionView
from fedsec.randomness import generator
from fedsec.threat import Knowledge

INFO = DatasetInfo(
    name="digits", summary="", task="classification", input_shape=(64,), classes=tuple("0123456789"),
    bounds=(0.0, 1.0), modality="image",
)  # fmt: skip


class Rehearsed:
    """The server's rule, for an adversary that knows it."""

    def __init__(self, rule):
        self._rule = rule

    def __call__(self, updates, *, model=None):
        return self._rule(updates)

    def function(self, n):
        return self._rule


def facts(rule=mean):
    model = FlatModel.of(torch.nn.Linear(64, 10), task="classification", name="softmax")
    return PublicFacts(
        info=INFO, model=model, initial=torch.zeros(650), stack=(), population=20, cohort=20, rounds=15, rule="mean",
        knowledge=frozenset({Knowledge.AGGREGATION_RULE}), _aggregate=Rehearsed(rule),
    )  # fmt: skip


@functools.cache
def digits(seed=0):
    data = load_digits()
    order = torch.randperm(len(data.target), generator=generator(seed, "digits"))
    examples = Examples(torch.tensor(data.data / 16.0, dtype=torch.float32)[order], torch.tensor(data.target)[order])
    return examples.take(range(1200)), examples.take(range(1200, 1797))


def local(model, shard, *, steps=5, rate=0.5):
    w = model.clone().requires_grad_(True)
    for step in range(steps):
        batch = slice(step * 12 % len(shard), step * 12 % len(shard) + 12)
        x, y = shard.x[batch], shard.y[batch]
        loss = torch.nn.functional.cross_entropy(x @ w[:640].view(10, 64).T + w[640:], y)
        (gradient,) = torch.autograd.grad(loss, w)
        w = (w - rate * gradient).detach().requires_grad_(True)
    return (w - model).detach()


def predictions(model, examples):
    return (examples.x @ model[:640].view(10, 64).T + model[640:]).argmax(dim=1)


def train(adversary, rule, *, clients=20, controlled=0, rounds=15, seed=0, skew=False):
    """Released model; the first ``controlled`` clients belong to the adversary."""
    pool, test = digits(seed)
    shards = [pool.take(range(client, len(pool), clients)) for client in range(clients)]
    if skew:  # two or so classes per client, dealt out so that the adversary's clients are like the others
        blocks = pool.y.argsort(stable=True).chunk(clients)
        dealt = torch.randperm(clients, generator=generator(seed, "deal")).tolist()
        shards = [pool.take(blocks[block]) for block in dealt]
    known = facts(rule)
    ours = range(controlled) if adversary is not None else range(0)
    for client in ours:
        shards[client] = adversary.poison(shards[client], known, generator=generator(seed, "poison", client))
    model, state = torch.zeros(650), {}
    for number in range(rounds):
        updates = torch.stack([local(model, shard) for shard in shards])
        if len(ours):
            k = len(ours)
            view = CoalitionView(
                round=number, clients=tuple(ours), own=updates[:k].clone(), weights=torch.ones(k), model=model,
                honest=updates[k:] if getattr(adversary.carried, "omniscient", False) else None,
                expected_cohort=clients, state=state, is_sybil=torch.zeros(k, dtype=torch.bool),
            )  # fmt: skip
            crafted = adversary.craft(view, known, generator=generator(seed, "craft", number))
            updates = torch.cat([crafted, updates[k:]])
        model = model + rule(updates)
    return model, test


def accuracy(result):
    model, test = result
    return float((predictions(model, test) == test.y).double().mean())


RULES = {
    "mean": mean,
    "median": coordinate_median,
    "multi-krum": functools.partial(multi_krum, f=8),
    "krum": functools.partial(krum, f=8),
    "geometric median": geometric_median,
}


@functools.cache
def honest(rule, *, skew=False):
    return accuracy(train(None, RULES[rule], skew=skew))


def attacked(adversary, rule, controlled, *, skew=False):
    return accuracy(train(adversary, RULES[rule], controlled=controlled, skew=skew))


@pytest.mark.parametrize("rule", RULES)
def test_rules_learn_without_an_attacker(rule):
    assert honest(rule) > (0.75 if rule == "krum" else 0.88)


@pytest.mark.parametrize("adversary", [SignFlip(), InnerProductManipulation()], ids=lambda a: a.name)
def test_reversed_updates_of_30_percent_destroy_the_mean(adversary):
    assert attacked(adversary, "mean", 6) < 0.2
    for rule in ("median", "multi-krum", "geometric median"):
        assert attacked(adversary, rule, 6) > 0.85


def test_unscaled_sign_flips_only_slow_the_mean():
    assert 0.7 < attacked(SignFlip(scale=1.0), "mean", 6) < honest("mean")


def test_small_ipm_breaks_krum_and_spares_the_mean():
    adversary = InnerProductManipulation(epsilon=0.5)
    assert attacked(adversary, "multi-krum", 8) < 0.5
    assert attacked(adversary, "mean", 8) > 0.8


def test_min_max_along_the_mean_breaks_krum():
    assert attacked(MinMax(direction="unit"), "krum", 8) < honest("krum") - 0.1


def test_noise_destroys_the_mean_and_zeros_only_slow_it():
    assert attacked(GaussianUpdate(), "mean", 6) < 0.3
    for rule in ("median", "multi-krum", "geometric median"):
        assert attacked(GaussianUpdate(), rule, 6) > 0.85
    for adversary in (ZeroUpdate(), FreeRider()):
        assert honest("mean") - 0.06 < attacked(adversary, "mean", 6) < honest("mean") + 0.02


@pytest.mark.parametrize("rule", ["mean", "krum", "multi-krum"])
def test_whoever_knows_the_rule_breaks_it(rule):
    assert attacked(Tailored(omniscient=True), rule, 8) < 0.3


def test_fangs_attack_breaks_the_krum_that_it_is_made_for():
    assert attacked(FangKrum(omniscient=True), "krum", 8) < 0.3
    assert attacked(FangKrum(omniscient=True), "mean", 8) > 0.8


def test_fangs_attack_on_trimming_drags_the_median():
    assert attacked(FangTrim(omniscient=True), "median", 8) < honest("median") - 0.03
    assert attacked(FangTrim(), "median", 8) < honest("median") - 0.1


def test_mimic_hurts_only_where_clients_differ():
    adversary = Mimic(omniscient=True)
    assert attacked(adversary, "median", 8) > honest("median") - 0.08
    assert attacked(adversary, "median", 8, skew=True) < honest("median", skew=True) - 0.15


def test_alie_needs_clients_that_differ():
    """On equal shards its deviation averages out; where clients hold two classes each, it ruins the median."""
    adversary = ALittleIsEnough()
    assert attacked(adversary, "mean", 8) > honest("mean") - 0.03
    assert attacked(adversary, "median", 8, skew=True) < honest("median", skew=True) - 0.15


def test_label_flips_of_40_percent_hurt_the_mean_and_multi_krum_drops_them():
    assert attacked(LabelFlip(), "mean", 8) < honest("mean") - 0.1
    assert attacked(LabelFlip(), "multi-krum", 8) > 0.88


def test_targeted_flips_move_one_class_only():
    adversary = TargetedLabelFlip(source=1, target=7)

    def taken(result):
        model, test = result
        guessed = predictions(model, test)
        return float((guessed[test.y == 1] == 7).double().mean()), float(
            (guessed == test.y)[test.y != 1].double().mean()
        )

    success, others = taken(train(adversary, mean, controlled=11))
    floor, _ = taken(train(None, mean))
    assert floor < 0.05
    assert success > 0.3
    assert others > 0.85


def test_an_adversary_without_clients_changes_nothing():
    model, _ = train(SignFlip(), mean, controlled=0)
    assert torch.equal(model, train(None, mean)[0])
