from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsec.attacks.evasion.nearest import CarliniWagner, DeepFool, FastAdaptiveBoundary, HopSkipJump
from fedsec.attacks.evasion.plugins import BasicIterative, FastGradient, FastGradientSign, ProjectedGradientDescent
from fedsec.attacks.evasion.trusted import AutoAttack, AutoPGD, SquareSearch
from fedsec.ball import lengths
from fedsec.data.embedded import Digits
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View

DIGITS = Digits().load(None)


def trained():
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    flat = FlatModel.of(net, task="classification", name="net")
    trainer = CohortTrainer(flat, LocalTraining(epochs=8, batch_size=32, learning_rate=0.3))
    return flat, flat.vector() + trainer.train(flat.vector(), [Shard(DIGITS.train, torch.arange(1297))], [0])[0]


MODEL, RELEASED = trained()


def run(attack, info=Digits.info, released=RELEASED):
    facts = PublicFacts(
        info=info,
        model=MODEL,
        initial=MODEL.vector(),
        stack=(),
        population=1,
        cohort=1,
        rounds=1,
        rule="mean",
        knowledge=attack.threat.knowledge,
        _test_inputs=DIGITS.test,
    )
    seen = Seen(round=0, topic=Topic.RELEASE, sender="server", values=released, weight=1.0, about=())
    return attack.run(View("outsider", (seen,)), facts, generator=torch.Generator().manual_seed(0))


def error(inputs):
    return (MODEL.instance(RELEASED)(inputs).argmax(-1) != DIGITS.test.y[: len(inputs)]).float().mean().item()


def test_many_steps_beat_one_and_one_beats_none():
    single, many = run(FastGradientSign(eps=0.15)), run(ProjectedGradientDescent(eps=0.15, steps=10))
    assert error(DIGITS.test.x) < 0.15
    assert 0.5 < error(single.inputs) <= error(many.inputs)
    assert (single.inputs - DIGITS.test.x).abs().max() <= 0.15 + 1e-6
    assert (single.forwards, single.backwards) == (500, 500)
    assert 500 < many.forwards < 500 * 11


def test_only_so_many_examples_in_the_order_of_the_challenge():
    found = run(FastGradientSign(eps=0.0, examples=30)).inputs
    assert torch.equal(found, DIGITS.test.x[:30])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"modality": "text"}, "text"), ({"bounds": None}, "no meaning"), ({"task": "regression"}, "classes")],
)
def test_what_has_no_small_perturbation_is_not_applicable(changes, message):
    with pytest.raises(NotApplicable, match=message):
        run(FastGradientSign(), info=replace(Digits.info, **changes))


EVERY = (
    FastGradientSign(eps=0.15, examples=40),
    FastGradient(eps=0.8, examples=40),
    BasicIterative(eps=0.15, examples=40),
    ProjectedGradientDescent(eps=0.15, steps=10, examples=40),
    AutoPGD(eps=0.15, steps=20, examples=40),
    SquareSearch(eps=0.15, queries=300, examples=40),
    AutoAttack(eps=0.15, steps=20, queries=100, examples=40),
    DeepFool(eps=0.8, examples=40),
    CarliniWagner(eps=0.8, searches=4, steps=60, examples=40),
    FastAdaptiveBoundary(eps=0.15, steps=20, examples=40),
    HopSkipJump(eps=0.8, steps=10, batch=30, examples=20),
)


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.name)
def test_every_attack_stays_in_its_ball_and_beats_noise(attack):
    found = run(attack)
    x = DIGITS.test.x[: len(found.inputs)]
    norm = getattr(attack, "norm", "l2")
    assert lengths(found.inputs - x, norm).max() <= attack.eps + 1e-5
    assert found.inputs.min() >= 0
    assert found.inputs.max() <= 1
    assert error(found.inputs) > error(x) + 0.3
    assert found.forwards > 0
    assert found.size == attack.eps


@pytest.mark.parametrize("attack", EVERY, ids=lambda attack: attack.name)
def test_on_a_model_of_noise_nothing_is_claimed_that_is_not_misread(attack):
    found = run(attack, released=torch.zeros_like(RELEASED))
    logits = MODEL.instance(torch.zeros_like(RELEASED))(found.inputs)
    assert torch.equal(logits.argmax(-1), torch.zeros(len(logits), dtype=torch.long))


@pytest.mark.parametrize(
    "attack",
    [
        DeepFool(examples=30),
        CarliniWagner(searches=4, steps=60, examples=30),
        FastAdaptiveBoundary(norm="l2", eps=1.0, steps=20, examples=30, beyond=True),
        HopSkipJump(steps=10, batch=30, examples=20, beyond=True),
    ],
    ids=lambda attack: attack.name,
)
def test_the_nearest_points_tell_the_accuracy_at_every_size(attack):
    wide = run(attack)
    x, y = DIGITS.test.x[: len(wide.inputs)], DIGITS.test.y[: len(wide.inputs)]
    misread = MODEL.instance(RELEASED)(x).argmax(-1) != y
    far = lengths(wide.nearest - x, attack.norm).flatten()
    fooled = MODEL.instance(RELEASED)(wide.nearest).argmax(-1) != y
    assert not far[misread].any()
    for eps in (0.3, 0.6):
        narrow = run(replace(attack, eps=eps))
        assert torch.equal(narrow.nearest, wide.nearest)
        moved = (narrow.inputs != x).flatten(1).any(1)
        assert torch.equal(moved, (far > 0) & (far <= eps))
        assert torch.equal(moved & fooled, ~misread & fooled & (far <= eps))
        assert (MODEL.instance(RELEASED)(narrow.inputs).argmax(-1) != y)[moved].float().mean() > 0.9
