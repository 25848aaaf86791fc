"""The oracle of batch orders says what local training really read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fedsec.attacks.inversion.inverting_gradients import InvertingGradients
from fedsec.audit.challenge import public_facts
from fedsec.data.embedded import Digits
from fedsec.data.partitions import Shuffle
from fedsec.data.split import split
from fedsec.errors import NotKnownError
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.models.dense import Softmax
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.randomness import numpy_generator


def build(local: LocalTraining, *, stragglers: float = 0.0) -> FederationSetup:
    dataset = Digits().load(None)
    parts = split(dataset, train=40, holdout=20, auxiliary=20, test=20, generator=numpy_generator(0, "split"))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = FlatModel.of(Softmax().build(dataset.info), task="classification", name="softmax")
    return FederationSetup(
        info=dataset.info,
        fingerprint=dataset.fingerprint,
        split=parts,
        index=Shuffle().assign(parts.clients, 4, generator=numpy_generator(0, "partition")),
        partition=Shuffle(),
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=4, stragglers=stragglers),
        local=local,
        weighting="examples",
        server=ServerStep(),
        rounds=2,
        evaluate_every=1,
        seed=3,
    )


@pytest.mark.parametrize("stragglers", [0.0, 0.9])
def test_replaying_the_told_batches_gives_the_update(stragglers):
    local = LocalTraining(epochs=2, batch_size=4, learning_rate=0.3, optimizer="momentum", weight_decay=0.01)
    setup = build(local, stragglers=stragglers)
    wanted = {topic: frozenset({0, 1}) for topic in (Topic.BROADCAST, Topic.UPLOAD)}
    events = Federation(setup, wanted=wanted, engine="sequential").run().events
    facts = public_facts(setup, (), InvertingGradients(local_steps="oracle-order"))
    models = {e.round: e.payload.values[0] for e in events if e.topic == Topic.BROADCAST}
    uploads = [e for e in events if e.topic == Topic.UPLOAD]
    assert len(uploads) == 8
    steps = set()
    for event in uploads:
        order = facts.order_of(event.round, event.sender)
        held = setup.shard(int(event.sender.partition(":")[2])).examples()
        assert torch.equal(order.labels, held.y)
        steps.add(len(order.rows))
        module = setup.model.instance(models[event.round]).train()
        how = torch.optim.SGD(module.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
        for rows in order.rows:
            how.zero_grad()
            setup.model.loss(module(held.x[rows]), held.y[rows]).mean().backward()
            how.step()
        trained = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
        assert torch.allclose(trained - models[event.round], event.payload.values[0], atol=1e-5)
    assert (steps == {6}) == (stragglers == 0.0)


def test_only_those_who_declare_the_oracle_are_told():
    setup = build(LocalTraining(batch_size=4))
    with pytest.raises(NotKnownError):
        public_facts(setup, (), InvertingGradients()).order_of(0, "client:0")
    facts = public_facts(setup, (), InvertingGradients(local_steps="oracle-order"))
    with pytest.raises(NotKnownError, match="no single client"):
        facts.order_of(0, "server")
    few = dataclasses.replace(setup, participation=Participation(clients_per_round=1))
    facts = public_facts(few, (), InvertingGradients(local_steps="oracle-order"))
    refused = 0
    for client in np.arange(4):
        try:
            facts.order_of(0, f"client:{client}")
        except NotKnownError:
            refused += 1
    assert refused == 3
