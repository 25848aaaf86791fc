"""A federation that overfits random labels: what each attack must find, and views that say nothing."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import torch

from fedsec.audit.challenge import client_challenge, membership_challenge, public_facts, truth
from fedsec.audit.shadows import Shadows
from fedsec.audit.store import Artifacts
from fedsec.data.embedded import Digits
from fedsec.data.examples import Examples
from fedsec.data.partitions import Shuffle
from fedsec.data.split import Split, split
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.models.dense import MLP
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.view import View, project
from fedsec.randomness import numpy_generator

ROUNDS = 12
SIZE = 80


def relabelled(examples: Examples, share: float, seed: int) -> Examples:
    """With a random label for a share of the examples: only a model that trained on them can know those."""
    random = torch.Generator().manual_seed(seed)
    chosen = torch.rand(len(examples), generator=random) < share
    labels = torch.randint(10, (len(examples),), generator=random)
    return Examples(examples.x, torch.where(chosen, labels, examples.y))


@cache
def setup(*, noise: float = 0.5, clients: int = 4) -> FederationSetup:
    dataset = Digits().load(None)
    parts = split(dataset, train=SIZE, holdout=SIZE, auxiliary=SIZE, test=50, generator=numpy_generator(0, "split"))
    noisy = [relabelled(part, noise, i) for i, part in enumerate((parts.clients, parts.holdout, parts.auxiliary))]
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = FlatModel.of(MLP(hidden=(64,)).build(dataset.info), task="classification", name="mlp")
    return FederationSetup(
        info=dataset.info,
        fingerprint=dataset.fingerprint,
        split=Split(*noisy, parts.test),
        index=Shuffle().assign(noisy[0], clients, generator=numpy_generator(0, "partition")),
        partition=Shuffle(),
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=clients),
        local=LocalTraining(epochs=8, batch_size=10, learning_rate=0.3),
        weighting="examples",
        server=ServerStep(),
        rounds=ROUNDS,
        evaluate_every=ROUNDS,
        seed=0,
    )


@cache
def trained():
    """What the federation sent, and its released model."""
    everything = {topic: frozenset(range(ROUNDS)) for topic in Topic}
    result = Federation(setup(), wanted=everything).run()
    return result.events, result.released


CHALLENGE = membership_challenge(setup())
CLIENTS = client_challenge(setup())


def facts_for(attack, folder: Path, *, challenge=CHALLENGE, clients=CLIENTS):
    federate = Shadows(setup(), (), "test", Artifacts(folder))
    return public_facts(setup(), (), attack, challenge=challenge, clients=clients, federate=federate)


def view_of(attack, *, position: str | None = None) -> View:
    topics = [*attack.wants, *attack.also_sees]
    events = [e for e in trained()[0] if e.topic == Topic.RELEASE or e.round in attack.rounds(ROUNDS)]
    view, _ = project(events, position or attack.threat.position, topics)
    return view


def noise(view: View, seed: int = 0) -> View:
    """The view with every value replaced by noise of the same length."""
    random = torch.Generator().manual_seed(seed)
    events = []
    for event in view.events:
        values = torch.randn(event.values.shape, generator=random)
        if event.topic in (Topic.BROADCAST, Topic.RELEASE):
            values = setup().initial + 0.05 * values
        else:
            values = values * event.values.norm() / values.norm()
        events.append(dataclasses.replace(event, values=values))
    return View(view.position, tuple(events))


def truth_for(attack):
    events, released = trained()
    return truth(setup(), (), attack, events=events, released=released, challenge=CHALLENGE, clients=CLIENTS)


def look_alikes():
    """A challenge whose "members" were never trained on either: the first half of the hold-out against the second."""
    held = setup().split.holdout
    members = torch.arange(len(held)) % 2 == 0
    return dataclasses.replace(
        CHALLENGE, candidates=held, members=members, owners=torch.where(members, torch.arange(len(held)) % 4, -1)
    )
