"""Several local steps: what each level of knowledge of them is worth."""

import dataclasses
import math

import pytest
import torch

from fedsec.attacks.inversion.dlg import ImprovedDeepLeakage
from fedsec.attacks.inversion.inverting_gradients import InvertingGradients
from fedsec.attacks.inversion.matching import one_hot
from fedsec.attacks.inversion.objective import evaluate
from fedsec.attacks.inversion.unrolled import deal_labels, epochs_differ, merge_epochs, step_sizes
from fedsec.attacks.inversion.victims import choose
from fedsec.errors import NotKnownError
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.shards import local_order
from fedsec.federation.training import LocalTraining
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import BatchOrder
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.randomness import generator
from fedsec.threat import Knowledge


def trained(scene, model, local, *, clients=2, per_client=2, attack, dtype=torch.float32):
    """A scene whose uploads come from the federation's own trainer, with the order of its batches as facts."""
    s = scene(attack.threat, model, clients=clients, per_client=per_client)
    state = s.facts.initial.to(dtype)
    shards = [Shard.of(s.truth.behind[0, f"client:{c}"]) for c in range(clients)]
    updates = CohortTrainer(model, local, engine="sequential").train(state, shards, list(range(clients)))
    orders = {}
    for c, shard in enumerate(shards):
        order = local_order(shard, local, seed=c)
        rows = tuple(order.rows[first:last] for first, last in order.bounds)
        orders[0, f"client:{c}"] = BatchOrder(rows, shard.examples().y)
    events = tuple(
        dataclasses.replace(e, values=state if e.topic == Topic.BROADCAST else updates[int(e.sender[-1])])
        for e in s.view.events
    )
    facts = dataclasses.replace(
        s.facts, initial=state, knowledge=attack.knows(), _local=local, _order=lambda r, sender: orders[r, sender]
    )
    return dataclasses.replace(s, view=View("server", events), facts=facts)


def at_truth(s, attack):
    """The objective of each victim's first lane at the true inputs, in the victims' own positions."""
    victims = choose(s.view, s.facts, targets=8)
    size = victims[0].examples
    matching, _, _, epochs = attack.prepare(victims, size, s.facts, generator=generator(0))
    held = [s.truth.behind[victim.source] for victim in victims]
    x = torch.stack([h.x for h in held]).to(victims[0].model).repeat(1, epochs, 1, 1, 1)
    y = one_hot(torch.stack([h.y for h in held]).repeat(1, epochs), 10, x)
    restarts = attack.restarts
    told = dataclasses.replace(matching, labels=y.repeat_interleave(restarts, 0))
    _, match, _ = evaluate(told.of(torch.arange(len(victims)) * restarts), x.flatten(1))
    return match


LOCALS = [
    LocalTraining(epochs=2, batch_size=1, learning_rate=0.5),
    LocalTraining(epochs=2, batch_size=2, learning_rate=0.3, optimizer="momentum", weight_decay=0.05, proximal=0.1),
]


@pytest.mark.parametrize("local", LOCALS, ids=["sgd", "momentum-decay-proximal"])
def test_told_the_order_the_objective_is_zero_at_the_truth_and_the_surrogate_is_not(scene, networks, local):
    model = networks["sigmoid-mlp"]()
    found = {}
    for how in ("surrogate", "oracle-order"):
        attack = ImprovedDeepLeakage(local_steps=how, restarts=1)
        s = trained(scene, model, local, per_client=3, attack=attack, dtype=torch.float64)
        found[how] = at_truth(s, attack)
    assert bool((found["oracle-order"] < 1e-10).all())
    assert bool((found["surrogate"] > 1e-4).all())


def mse(s, attack, seed=0):
    judgement = s.judgement(attack.run(s.view, s.facts, generator=generator(seed)))
    return next(m for m in judgement.measurements if m.name == "mse").units


def test_told_the_order_the_attack_beats_the_surrogate(scene, networks):
    model, local = networks["sigmoid-mlp"](), LocalTraining(epochs=2, batch_size=1, learning_rate=1.0)
    error = {}
    for how in ("surrogate", "oracle-order"):
        attack = ImprovedDeepLeakage(local_steps=how, restarts=1, evaluations=80)
        s = trained(scene, model, local, clients=2, attack=attack)
        error[how] = mse(s, attack)
    assert float(error["oracle-order"].median()) < 1e-3
    assert float(error["oracle-order"].mean()) < 0.5 * float(error["surrogate"].mean())


def test_an_unknown_order_is_replayed_with_variables_per_epoch(scene, networks):
    model, local = networks["sigmoid-mlp"](), LocalTraining(epochs=2, batch_size=2, learning_rate=1.0)
    attack = InvertingGradients(local_steps="unrolled", iterations=80, tv=0.0)
    s = trained(scene, model, local, clients=2, attack=attack)
    evidence = attack.run(s.view, s.facts, generator=generator(0))
    assert evidence.inputs.shape == (4, 1, 8, 8)
    assert s.judge(evidence)["identified"] >= 0.5


def test_only_the_oracle_needs_and_gets_the_order(scene, networks):
    assert Knowledge.BATCH_ORDER not in InvertingGradients(local_steps="unrolled").knows()
    attack = InvertingGradients(local_steps="oracle-order")
    assert Knowledge.BATCH_ORDER in attack.knows()
    s = trained(scene, networks["mlp"](), LOCALS[0], attack=attack)
    facts = dataclasses.replace(s.facts, knowledge=attack.threat.knowledge)
    with pytest.raises(NotKnownError):
        attack.run(s.view, facts, generator=generator(0))


def test_what_cannot_be_unrolled_is_not_applicable(scene, networks):
    attack = InvertingGradients(local_steps="unrolled", max_examples=2)
    s = scene(attack.threat, networks["mlp"](), clients=2, per_client=3)
    with pytest.raises(NotApplicable, match="max_examples is 2"):
        attack.run(s.view, s.facts, generator=generator(0))
    adam = dataclasses.replace(s.facts, _local=LocalTraining(optimizer="adam"))
    with pytest.raises(NotApplicable, match="adam"):
        attack.run(s.view, adam, generator=generator(0))
    falling = dataclasses.replace(s.facts, _local=LocalTraining(schedule="cosine", rounds=3))
    with pytest.raises(NotApplicable, match="changes over the rounds"):
        attack.run(s.view, falling, generator=generator(0))
    s = scene(attack.threat, networks["mlp"](), clients=2, topic=Topic.AGGREGATE)
    with pytest.raises(NotApplicable, match="aggregate"):
        attack.run(s.view, s.facts, generator=generator(0))


@pytest.mark.parametrize("examples", [1, 3, 7])
@pytest.mark.parametrize("local", [*LOCALS, LocalTraining(epochs=3, batch_size=None), LocalTraining(max_steps=2)])
def test_step_sizes_are_those_of_local_training(examples, local):
    order = local_order(Shard(None, torch.arange(examples)), local, seed=1)
    assert step_sizes(examples, local) == tuple(last - first for first, last in order.bounds)


def test_epochs_are_compared_and_merged_as_sets():
    x = torch.rand(2, 3, 1, 4, 4, generator=generator(0))
    order = torch.tensor([2, 0, 1])
    twice = torch.cat([x, x[:, order]], 1)
    assert torch.allclose(epochs_differ(twice, 2), torch.zeros(2), atol=1e-12)
    assert bool((epochs_differ(torch.cat([x, x.flip(0)], 1), 2) > 1e-4).all())
    labels = torch.tensor([[0, 0, 1], [1, 2, 3]])
    merged, claims = merge_epochs(twice, torch.cat([labels, labels[:, order]], 1), 2)
    assert torch.allclose(merged, x)
    assert torch.equal(claims, labels)


def test_labels_are_dealt_anew_in_every_epoch():
    labels = torch.arange(6).expand(50, -1)
    dealt = deal_labels(labels, 2, generator=generator(1)).view(50, 2, 6)
    assert torch.equal(dealt.sort(-1).values, labels.unsqueeze(1).expand(-1, 2, -1))
    assert len({tuple(row.tolist()) for row in dealt.flatten(0, 1)}) > 80
    assert math.isclose(float(dealt[..., 0].float().mean()), 2.5, abs_tol=0.6)
