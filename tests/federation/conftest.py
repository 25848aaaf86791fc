"""A small federation on the digits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedsec.data.embedded import Digits
from fedsec.data.partitions import Shuffle
from fedsec.data.split import split
from fedsec.federation.population import Participation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.models.dense import Softmax
from fedsec.models.flat import FlatModel
from fedsec.randomness import derive_seed, numpy_generator


def build(*, clients: int = 8, train: int = 160, seed: int = 0, **changes: Any) -> FederationSetup:
    dataset = Digits().load(None)
    parts = split(dataset, train=train, holdout=100, auxiliary=100, test=200, generator=numpy_generator(seed, "split"))
    partition = Shuffle()
    index = partition.assign(parts.clients, clients, generator=numpy_generator(seed, "partition"))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, "initial"))
        model = FlatModel.of(Softmax().build(dataset.info), task="classification", name="softmax")
    setup = FederationSetup(
        info=dataset.info,
        fingerprint=dataset.fingerprint,
        split=parts,
        index=index,
        partition=partition,
        model=model,
        initial=model.vector(),
        participation=Participation(clients_per_round=clients),
        local=LocalTraining(epochs=1, batch_size=10, learning_rate=0.5),
        weighting="examples",
        server=ServerStep(),
        rounds=3,
        evaluate_every=1,
        seed=seed,
    )
    return dataclasses.replace(setup, **changes)


@pytest.fixture(scope="session")
def make_setup() -> Callable[..., FederationSetup]:
    return build


@pytest.fixture(scope="session")
def setup() -> FederationSetup:
    return build()
