import dataclasses

import pytest
import torch
from torch import nn

from fedsec.attacks.property.passive import PassivePropertyInference
from fedsec.data.embedded import BreastCancer, Digits
from fedsec.data.examples import Attribute, Examples
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import Seen, View
from fedsec.statistics.intervals import auc

DIGITS = Digits().load(None).train
LOCAL = LocalTraining(epochs=1, batch_size=10, learning_rate=0.1)
AUXILIARY, VICTIMS = DIGITS.take(range(400)), DIGITS.take(range(400, 1297))


def flat():
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return FlatModel.of(net, task="classification", name="net")


MODEL = flat()
TRAINER = CohortTrainer(MODEL, LOCAL)


def simulate(model, shard, draw):
    return TRAINER.train(model, [Shard(shard, torch.arange(len(shard)))], [draw])[0]


def simulate_many(model, shards, draws):
    return TRAINER.train(model, [Shard(shard, torch.arange(len(shard))) for shard in shards], draws)


def facts(**changes):
    given = {
        "info": Digits.info,
        "model": MODEL,
        "initial": MODEL.vector(),
        "stack": (),
        "population": 20,
        "cohort": 5,
        "rounds": 3,
        "rule": "mean",
        "knowledge": PassivePropertyInference.threat.knowledge,
        "_auxiliary": AUXILIARY,
        "_local": LOCAL,
        "_simulate": simulate,
        "_simulate_many": simulate_many,
    }
    return PublicFacts(**(given | changes))


def shard_of(kind, generator, size=30, purity=0.9):
    ink = VICTIMS.attributes["ink"]
    pure = round(purity * size)
    rows = [
        pool[torch.randperm(len(pool), generator=generator)[:count]]
        for pool, count in (
            ((ink == kind).nonzero().flatten(), pure),
            ((ink != kind).nonzero().flatten(), size - pure),
        )
    ]
    return VICTIMS.take(torch.cat(rows))


def uploads(clients=10, noise=False, topic=Topic.UPLOAD):
    generator = torch.Generator().manual_seed(4)
    seen, truths = [], []
    for number in range(clients):
        kind = number % 2
        values = simulate(MODEL.vector(), shard_of(kind, generator), 10_000 + number)
        if noise:
            values = values.norm() * torch.randn(values.shape, generator=generator)
        seen.append(
            Seen(round=0, topic=topic, sender=f"client:{number}", values=values, weight=30.0, about=(("examples", 30),))
        )
        truths.append(kind == 1)
    return tuple(seen), truths


def run(attack, events, **changes):
    return attack.run(View("server", events), facts(**changes), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("classifier", "least"), [("linear", 0.85), ("forest", 0.55)])
def test_ink_is_read_from_updates(classifier, least):
    events, truths = uploads(20)
    evidence = run(PassivePropertyInference(classifier=classifier, shadow_updates=120), events)
    assert evidence.sources == tuple((0, f"client:{n}") for n in range(20))
    assert auc(evidence.scores, truths) > least
    assert auc(evidence.scores, truths) > auc(evidence.control, truths)


def test_noise_says_nothing():
    events, truths = uploads(20, noise=True)
    assert 0.2 < auc(run(PassivePropertyInference(), events).scores, truths) < 0.8


def test_an_aggregate_is_read_too():
    generator = torch.Generator().manual_seed(5)
    events, truths = [], []
    for number in range(10):
        kind = number % 2
        members = [kind] * 5
        updates = [
            simulate(MODEL.vector(), shard_of(k, generator), 500 + 10 * number + i) for i, k in enumerate(members)
        ]
        mean = torch.stack(updates).mean(0)
        events.append(
            Seen(
                round=number,
                topic=Topic.AGGREGATE,
                sender="server",
                values=mean,
                weight=150.0,
                about=(("examples", 150),),
            )
        )
        events.append(
            Seen(round=number, topic=Topic.BROADCAST, sender="server", values=MODEL.vector(), weight=1.0, about=())
        )
        truths.append(kind == 1)
    evidence = run(PassivePropertyInference(shadow_updates=60), tuple(events), rounds=10)
    assert evidence.sources == tuple((n, "server") for n in range(10))
    assert auc(evidence.scores, truths) >= 0.75


def test_equal_generators_give_equal_scores():
    events, _ = uploads(4)
    one, two = (run(PassivePropertyInference(shadow_updates=10), events) for _ in range(2))
    assert torch.equal(one.scores, two.scores)
    assert torch.equal(one.control, two.control)


def test_what_cannot_be_asked_is_not_applicable():
    events, _ = uploads(2)
    with pytest.raises(NotApplicable, match="has no attribute 'age'; it has ink"):
        run(PassivePropertyInference(property="age"), events)
    plain = Examples(AUXILIARY.x, AUXILIARY.y)
    with pytest.raises(NotApplicable, match="has no attribute"):
        run(PassivePropertyInference(), events, info=BreastCancer.info, _auxiliary=plain)
    with pytest.raises(NotApplicable, match="both with and without"):
        run(
            PassivePropertyInference(),
            events,
            _auxiliary=AUXILIARY.take(AUXILIARY.attributes["ink"].nonzero().flatten()),
        )
    later = tuple(Seen(round=2, topic=e.topic, sender=e.sender, values=e.values, weight=1.0, about=()) for e in events)
    with pytest.raises(NotApplicable, match="no model"):
        run(PassivePropertyInference(), later)


def test_sizes_are_said_weighed_or_assumed():
    def sizes(weights, said, merged=1):
        about = (lambda n: (("examples", n),)) if said else (lambda n: ())
        seen = [
            Seen(round=0, topic=Topic.UPLOAD, sender="client:0", values=torch.zeros(1), weight=float(w), about=about(w))
            for w in weights
        ]
        return PassivePropertyInference(assumed_examples=9).sizes(seen, merged)

    assert sizes([1, 7], said=True) == [1, 7]
    assert sizes([1, 7], said=False) == [1, 7]
    assert sizes([1, 1], said=False) == [9, 9]
    assert sizes([150, 100], said=False, merged=5) == [30, 20]
    assert sizes([5], said=False, merged=5) == [9]


def test_the_attacked_rounds_exist():
    attack = PassivePropertyInference(first_round=5, rounds_used=3)
    assert list(attack.rounds(20)) == [5, 6, 7]
    assert list(attack.rounds(6)) == [3, 4, 5]
    assert list(attack.rounds(2)) == [0, 1]


def test_no_round_is_read_with_later_ones():
    now, _ = uploads(4)
    later = tuple(
        Seen(round=1, topic=e.topic, sender=e.sender, values=2 * e.values, weight=30.0, about=()) for e in now
    )
    model = Seen(
        round=1, topic=Topic.BROADCAST, sender="server", values=MODEL.vector() + 0.1, weight=1.0, about=()
    )  # fmt: skip
    attack = PassivePropertyInference(shadow_updates=10)
    alone, both = run(attack, now), run(attack, (*now, model, *later))
    assert torch.equal(alone.scores, both.scores[:4])
    assert torch.equal(alone.control, both.control[:4])


def test_single_steps_are_read_as_the_batches_of_the_paper():
    """FedSGD: an update is one gradient; magnitudes and a forest, as published, and signs and a line."""
    one_step = CohortTrainer(MODEL, LocalTraining(epochs=1, batch_size=None, learning_rate=0.1))

    def steps(model, shards, draws):
        return one_step.train(model, [Shard.of(shard) for shard in shards], draws)

    generator = torch.Generator().manual_seed(6)
    seen, truths = [], []
    for number in range(20):
        values = steps(MODEL.vector(), [shard_of(number % 2, generator)], [number])[0]
        seen.append(Seen(round=0, topic=Topic.UPLOAD, sender=f"client:{number}", values=values, weight=30.0, about=()))
        truths.append(number % 2 == 1)
    linear = PassivePropertyInference(shadow_updates=120)
    published = PassivePropertyInference(shadow_updates=120, features="melis", classifier="forest")
    given = {"_simulate_many": steps}
    assert auc(run(linear, tuple(seen), **given).scores, truths) > 0.9
    assert auc(run(published, tuple(seen), **given).scores, truths) > 0.6


def test_several_properties_share_one_simulation():
    asked = []

    def counted(model, shards, draws):
        asked.append(len(shards))
        return simulate_many(model, shards, draws)

    generator = torch.Generator().manual_seed(0)
    second = torch.randint(2, (len(AUXILIARY),), generator=generator)
    public = Examples(AUXILIARY.x, AUXILIARY.y, {**AUXILIARY.attributes, "coin": second})
    info = dataclasses.replace(
        Digits.info, attributes=(*Digits.info.attributes, Attribute(name="coin", values=("no", "yes"), description=""))
    )
    events, truths = uploads(20)
    attack = PassivePropertyInference(properties=("ink", "coin"), shadow_updates=80)
    evidence = run(attack, events, info=info, _auxiliary=public, _simulate_many=counted)
    assert asked == [80]
    assert sorted(evidence.scores) == ["coin", "ink"]
    assert auc(evidence.scores["ink"].scores, truths) > 0.8
    # a coin says nothing of ink, and ink nothing of a coin
    assert 0.1 < auc(evidence.scores["coin"].scores, truths) < 0.9
