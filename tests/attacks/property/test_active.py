import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.property.active import ActivePropertyInference, last_linear, multi_task, without
from fedsec.data.properties import resolve
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import CoalitionView
from fedsec.protocol.view import Seen, View
from fedsec.statistics.intervals import auc


def event(values, weight=1.0, number=0, topic=Topic.AGGREGATE):
    return Seen(round=number, topic=topic, sender="server", values=values, weight=weight, about=())


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=3, max_size=8), ours=st.integers(1, 2), weighted=st.booleans())
def test_the_others_mean_is_recovered_exactly(sizes, ours, weighted):
    values = torch.randn(len(sizes), 4, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor(sizes if weighted else [7] * len(sizes), dtype=torch.float64)

    def mean(rows):
        return ((weights[rows] / weights[rows].sum()) @ values[rows].double()).float()

    everyone, own, others = range(len(sizes)), range(ours), range(ours, len(sizes))
    said = float(weights.sum()) if weighted else 1.0
    seen = without(event(mean(everyone), weight=said), mean(own), weights[:ours], len(sizes))
    assert torch.allclose(seen.values, mean(others), atol=1e-4)
    assert dict(seen.about)["examples"] == round(float(weights[ours:].sum()))


def test_with_all_weight_on_the_task_it_trains_like_anybody(world):
    local = LocalTraining(epochs=2, batch_size=None, learning_rate=0.1, weight_decay=0.01)
    shard = world.victims.take(range(40))
    from fedsec.federation.cohort import CohortTrainer
    from fedsec.federation.shards import Shard

    honest = CohortTrainer(world.model, local).train(world.initial, [Shard.of(shard)], [0])[0]
    asked = resolve(["ink"], world.facts().info)
    update, head = multi_task(
        world.model,
        world.initial,
        torch.zeros(1, 33),
        shard,
        asked,
        local,
        task_weight=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.allclose(update, honest, atol=1e-6)
    assert head.abs().max() == 0


def coalition(world, shards, number, model, state):
    return CoalitionView(
        round=number,
        clients=tuple(range(len(shards))),
        own=torch.zeros(len(shards), world.model.layout.size),
        weights=torch.tensor([float(len(s)) for s in shards], dtype=torch.float64),
        model=model,
        honest=None,
        expected_cohort=5,
        state=state,
        is_sybil=torch.zeros(len(shards), dtype=torch.bool),
        shards=tuple(shards),
    )


def federation(world, attack, rounds=10):
    """Four honest clients of one kind each round and the adversary; everybody is sent the mean."""
    generator = torch.Generator().manual_seed(1)
    own = world.victims.take(torch.randperm(len(world.victims), generator=generator)[:30])
    model, state, events, truths = world.initial, {}, [], []
    for number in range(rounds):
        kind = number % 2
        others = world.simulate(
            model, [world.shard(kind, generator) for _ in range(4)], [50 * number + i for i in range(4)]
        )
        sent = attack.craft(coalition(world, [own], number, model, state), world.facts(), generator=generator)
        events += [
            event(model, number=number, topic=Topic.BROADCAST),
            event(torch.cat([others, sent]).mean(0), number=number),
        ]
        model = model + torch.cat([others, sent]).mean(0)
        truths.append(kind == 1)
    return View("client:0", tuple(events)), state, truths


def test_the_others_property_is_read_from_successive_models(world):
    attack = ActivePropertyInference(shadow_updates=60)
    view, state, truths = federation(world, attack)
    facts = world.facts(rounds=10)
    evidence = attack.observe(view, facts, state, generator=torch.Generator().manual_seed(0))
    assert evidence.sources == tuple((n, "server") for n in range(10))
    assert auc(evidence.scores, truths) >= 0.8
    noise = dataclasses.replace(
        view,
        events=tuple(
            e
            if e.topic == Topic.BROADCAST
            else dataclasses.replace(
                e, values=torch.randn(e.values.shape, generator=torch.Generator().manual_seed(e.round))
            )
            for e in view.events
        ),
    )
    blind = attack.observe(noise, facts, state, generator=torch.Generator().manual_seed(0))
    assert 0.1 < auc(blind.scores, truths) < 0.9


def test_the_head_learns_the_property_and_stays_at_home(world):
    attack = ActivePropertyInference(task_weight=0.3, public_share=10)
    facts = world.facts(_local=LocalTraining(epochs=10, batch_size=20, learning_rate=0.4))
    state, model, generator = {}, world.initial, torch.Generator().manual_seed(0)
    for number in range(6):
        view = coalition(world, [world.victims.take(range(30))], number, model, state)
        update = attack.craft(view, facts, generator=generator)
        assert update.shape == (1, world.model.layout.size)
        model = model + update[0]
    net = world.model.instance(model)
    below = net[2](net[1](net[0](world.victims.x[100:])))
    logits = below @ state["head"][0, :-1] + state["head"][0, -1]
    # half of the digits have much ink, and a head that is not trained says so of none
    assert float(((logits > 0).long() == world.victims.attributes["ink"][100:]).double().mean()) > 0.65


def test_a_model_without_a_hidden_layer_has_nothing_to_share(world):
    linear = FlatModel.of(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), task="classification", name="linear")
    assert last_linear(linear) is None
    view = View("client:0", (event(linear.vector()),))
    with pytest.raises(NotApplicable, match="no hidden layer"):
        ActivePropertyInference().observe(view, world.facts(model=linear), {}, generator=torch.Generator())


def test_rounds_without_the_coalition_are_not_read(world):
    view = View("client:0", (event(world.initial),))
    with pytest.raises(NotApplicable, match="took part in"):
        ActivePropertyInference().observe(view, world.facts(), {}, generator=torch.Generator())
