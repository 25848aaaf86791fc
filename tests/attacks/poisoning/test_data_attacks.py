"""Attacks on training data: what they change, what they leave, and what they do to a federation of the harness."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning import noisy_features, noisy_labels, reweighed
from fedsec.attacks.poisoning.biased_data import BiasedData
from fedsec.attacks.poisoning.dynamic_flip import DynamicLabelFlip, least_likely
from fedsec.attacks.poisoning.feature_noise import FeatureNoise
from fedsec.attacks.poisoning.label_flip import LabelFlip, TargetedLabelFlip
from fedsec.attacks.poisoning.label_noise import LabelNoise
from fedsec.audit.build import Builder
from fedsec.audit.challenge import public_facts
from fedsec.config import config_from
from fedsec.data.examples import Attribute, DatasetInfo, Examples
from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.errors import ConfigurationError
from fedsec.federation.rounds import Federation
from fedsec.models.flat import FlatModel
from fedsec.protocol.facts import PublicFacts
from fedsec.randomness import generator
from fedsec.threat import Capability

DATA = (LabelFlip, TargetedLabelFlip, LabelNoise, FeatureNoise, BiasedData)


def facts(task="classification", classes=10, bounds=(0.0, 1.0)):
    info = DatasetInfo(
        name="toy", summary="", task=task, input_shape=(2,), bounds=bounds, modality="tabular",
        classes=tuple(map(str, range(classes))), vocabulary=50 if task == "next-token" else 0,
        attributes=(Attribute(name="sex", values=("f", "m"), description="s"),),
    )  # fmt: skip
    model = FlatModel.of(torch.nn.Linear(2, 3), task="classification", name="softmax")
    return PublicFacts(
        info=info, model=model, initial=torch.zeros(9), stack=(), population=20, cohort=10, rounds=5, rule="mean",
        knowledge=frozenset(),
    )  # fmt: skip


def shard(n=60, classes=10, seed=0):
    draws = generator(seed, "data attacks")
    y = torch.randint(classes, (n,), generator=draws)
    return Examples(torch.rand(n, 2, generator=draws), y, {"sex": torch.arange(n) % 2})


@functools.cache
def digits():
    config = config_from(
        {
            "version": 1,
            "federation": {
                "dataset": {"name": "digits", "train": 1200, "test": 400},
                "model": "softmax",
                "clients": 10,
                "rounds": 12,
                "evaluate_every": 4,
                "local": {"batch_size": 20, "learning_rate": 0.5},
            },
            "attacks": [],
        }
    )
    return Builder(config).setup(0)


@functools.cache
def trained(adversary, stack=()):
    setup = digits()
    if adversary is None:
        return Federation(setup, stack).run()
    return Federation(setup, stack, adversary=adversary, facts=public_facts(setup, stack, adversary)).run()


@pytest.mark.parametrize(("kind", "other"), [("symmetric", None), ("pair", 1)])
def test_label_noise_has_its_rate_and_its_kind(kind, other):
    y = torch.arange(10).repeat(2000)
    noisy = noisy_labels(y, classes=10, rate=0.3, kind=kind, generator=generator(0))
    wrong = noisy != y
    assert float(wrong.double().mean()) == pytest.approx(0.3, abs=0.02)
    offsets = set(((noisy - y) % 10)[wrong].tolist())
    assert offsets == ({other} if other else set(range(1, 10)))
    assert torch.equal(y, torch.arange(10).repeat(2000))


def test_label_noise_at_its_ends_and_beyond():
    y = torch.arange(10)
    assert torch.equal(noisy_labels(y, classes=10, rate=0.0, kind="symmetric", generator=generator(0)), y)
    assert bool((noisy_labels(y, classes=10, rate=1.0, kind="symmetric", generator=generator(0)) != y).all())
    with pytest.raises(ValueError, match="rate"):
        noisy_labels(y, classes=10, rate=1.1, kind="pair", generator=generator(0))


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
def test_feature_noise_keeps_the_bounds_and_has_its_size(law):
    x = torch.full((4000, 2), 3.0)
    noisy = noisy_features(x, amount=0.1, law=law, bounds=(-5.0, 15.0), generator=generator(0))
    assert float((noisy - x).mean()) == pytest.approx(0.0, abs=0.1)
    spread = 2.0 if law == "gaussian" else 2.0 / 3**0.5
    assert float((noisy - x).std()) == pytest.approx(spread, rel=0.05)
    wide = noisy_features(x, amount=10.0, law=law, bounds=(-5.0, 15.0), generator=generator(0))
    assert float(wide.min()) == -5.0
    assert float(wide.max()) == 15.0


def test_feature_noise_leaves_labels_and_a_share_of_the_examples():
    held = shard(2000)
    bad = FeatureNoise(rate=0.25).poison(held, facts(), generator=generator(0))
    assert torch.equal(bad.y, held.y)
    assert bad.attributes == held.attributes
    touched = (bad.x != held.x).any(dim=1)
    assert float(touched.double().mean()) == pytest.approx(0.25, abs=0.04)


@given(n=st.integers(1, 40), inside=st.integers(0, 40), share=st.floats(0.0, 1.0), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_a_reweighed_data_set_has_its_size_and_its_share(n, inside, share, seed):
    member = torch.arange(n) < inside
    rows = reweighed(member, share=share, generator=generator(seed))
    assert len(rows) == n
    wanted, there = round(share * n), int(member.sum())
    if (wanted and not there) or (n - wanted and there == n):
        assert torch.equal(rows, torch.arange(n))
        return
    assert int(member[rows].sum()) == wanted
    # nobody is repeated while somebody of the same group is left out
    for group in (member, ~member):
        counts = torch.bincount(rows, minlength=n)[group]
        if len(counts):
            assert int(counts.max() - counts.min()) <= 1


def test_biased_data_by_class_and_by_attribute():
    held = shard(200)
    bad = BiasedData(value=3).poison(held, facts(), generator=generator(0))
    assert len(bad) == 200
    assert not bool((bad.y == 3).any())
    bad = BiasedData(attribute="sex", value=1, share=0.9).poison(held, facts(), generator=generator(0))
    assert int((bad.attributes["sex"] == 1).sum()) == 180
    pairs = {(tuple(x.tolist()), int(y)) for x, y in zip(held.x, held.y, strict=True)}
    assert {(tuple(x.tolist()), int(y)) for x, y in zip(bad.x, bad.y, strict=True)} <= pairs


@pytest.mark.parametrize(
    ("adversary", "known", "message"),
    [
        (BiasedData(value=10), facts(), "classes 0 to 9"),
        (BiasedData(attribute="age"), facts(), "the attributes sex"),
        (BiasedData(attribute="sex", value=2), facts(), "values 0 to 1"),
        (BiasedData(), facts("next-token"), "Name an attribute"),
        (BiasedData(), facts("regression", 0), "needs classes"),
        (LabelNoise(), facts("regression", 0), "needs classes"),
        (FeatureNoise(), facts(bounds=None), "label-noise"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(adversary, known, message):
    with pytest.raises(ConfigurationError, match=message):
        adversary.poison(shard(), known, generator=generator(0))


def test_least_likely_labels_are_wrong_and_the_least_likely():
    model = FlatModel.of(torch.nn.Linear(2, 5), task="classification", name="softmax")
    held = shard(3000, classes=5)
    vector = torch.randn(15, generator=generator(3))
    scores = held.x @ vector[:10].view(5, 2).T + vector[10:]
    expected = [
        min((c for c in range(5) if c != y), key=lambda c: float(row[c]))
        for row, y in zip(scores, held.y.tolist(), strict=True)
    ]
    assert least_likely(model, vector, held).tolist() == expected
    # every label is equally unlikely: the first that is wrong
    flat = least_likely(model, torch.zeros(15), held)
    assert torch.equal(flat, (held.y == 0).long())


def test_least_likely_labels_of_tokens():
    network = torch.nn.Sequential(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4))
    model = FlatModel.of(network, task="next-token", name="tokens")
    tokens = Examples(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 2], [3, 0]]))
    found = least_likely(model, model.vector(), tokens)
    scores = network(tokens.x)
    scores[torch.arange(2)[:, None], torch.arange(2), tokens.y] = torch.inf
    assert torch.equal(found, scores.argmin(-1))


def test_dynamic_flips_hurt_more_than_fixed_ones():
    honest = trained(None).accuracy[-1]
    fixed, dynamic = trained(LabelFlip(fraction=0.3)).accuracy[-1], trained(DynamicLabelFlip(fraction=0.3)).accuracy[-1]
    assert honest > 0.9
    assert dynamic < fixed < honest
    assert dynamic < honest - 0.1


@pytest.mark.parametrize("adversary", [LabelNoise(rate=1.0, fraction=0.5), FeatureNoise(amount=5.0, fraction=0.8)])
def test_noise_on_many_clients_hurts(adversary):
    assert trained(adversary).accuracy[-1] < trained(None).accuracy[-1] - 0.05


def test_a_class_that_most_clients_leave_out_is_forgotten():
    setup = digits()
    asked = setup.split.test.y == 3

    def recall(result):
        return float((result.predictions[asked] == 3).double().mean())

    assert recall(trained(None)) > 0.8
    assert recall(trained(BiasedData(value=3, fraction=0.9))) < recall(trained(None)) - 0.3


def test_a_targeted_flip_is_probed_after_each_evaluated_round():
    adversary = TargetedLabelFlip(source=1, target=7, fraction=0.8)
    setup = digits()
    asked = adversary.probe(setup.split.test, setup.info)
    assert set(asked.y.tolist()) == {7}
    assert len(asked) == int((setup.split.test.y == 1).sum())
    result = trained(adversary)
    assert len(result.probes) == len(result.rounds)
    assert result.probes[-1] > 0.5
    assert adversary.probe(setup.split.test.take([0]), setup.info) is None or int(setup.split.test.y[0]) == 1


def test_honest_clients_with_poisoned_data_run_the_clients_defenses():
    stack = (ClipNorm(c=1e-3, enforced_by="client"),)

    def moved(adversary):
        return float((trained(adversary, stack).released - digits().initial).norm())

    bound = 12 * 1e-3 * 1.001
    assert moved(None) < bound
    assert moved(LabelFlip(fraction=0.5, honest_clients=True)) < bound
    assert moved(LabelFlip(fraction=0.5)) > 100 * bound


@pytest.mark.parametrize("kind", [*DATA, DynamicLabelFlip])
def test_data_attacks_control_data_and_nothing_else(kind):
    assert kind.threat.capabilities == {Capability.TRAINING_DATA_CONTROL}
    assert not kind.threat.knowledge
    assert not kind().knows()
    assert kind().fraction == 0.2
