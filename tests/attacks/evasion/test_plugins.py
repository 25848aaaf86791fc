from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsec.attacks.evasion.plugins import FastGradientSign, ProjectedGradientDescent
from fedsec.data.embedded import BreastCancer, Digits
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


def run(attack, info=Digits.info):
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
    seen = Seen(round=0, topic=Topic.RELEASE, sender="server", values=RELEASED, weight=1.0, about=())
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
    with pytest.raises(NotApplicable, match="tabular"):
        run(ProjectedGradientDescent(), info=BreastCancer.info)
