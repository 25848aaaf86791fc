"""Facts that hold exactly: federated gradients are pooled gradients, and one full-batch step is gradient descent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.data.embedded import HeightWeight
from fedsec.data.partitions import Shuffle
from fedsec.data.source import ClientIndex
from fedsec.data.split import split
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.models.dense import Linear
from fedsec.models.flat import FlatModel
from fedsec.randomness import numpy_generator

RATE = 0.1


def height_weight(sizes: list[int], *, rounds: int = 1, epochs: int = 1) -> FederationSetup:
    """Height-and-weight regression, float64, each client one full batch."""
    dataset = HeightWeight().load(None)
    total = sum(sizes)
    parts = split(dataset, train=total, holdout=0, auxiliary=0, test=None, generator=numpy_generator(0, "split"))
    module = Linear().build(dataset.info)
    model = FlatModel.of(module, task="regression", name="linear")
    initial = torch.tensor([0.3, -0.2], dtype=torch.float64)
    return FederationSetup(
        info=dataset.info,
        fingerprint=dataset.fingerprint,
        split=parts,
        index=ClientIndex(np.arange(total), np.concatenate([[0], np.cumsum(sizes)])),
        partition=Shuffle(),
        model=model,
        initial=initial,
        participation=Participation(clients_per_round=len(sizes)),
        local=LocalTraining(epochs=epochs, batch_size=None, learning_rate=RATE),
        weighting="examples",
        server=ServerStep(),
        rounds=rounds,
        evaluate_every=1,
        seed=0,
    )


def pooled_gradient(setup: FederationSetup, w: torch.Tensor) -> torch.Tensor:
    """``mean((w.x + b - y) [x, 1])``, written out."""
    pool = setup.split.clients
    x, y = pool.x.double().flatten(), pool.y.double()
    residual = w[0] * x + w[1] - y
    return torch.stack([(residual * x).mean(), residual.mean()])


def available() -> int:
    return len(HeightWeight().load(None).train)


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_the_average_of_the_clients_gradients_is_the_pooled_gradient(data: st.DataObject) -> None:
    sizes, left = [], available()
    for _ in range(data.draw(st.integers(2, 4))):
        sizes.append(data.draw(st.integers(1, max(1, left - 4))))
        left = max(1, left - sizes[-1])
    while sum(sizes) > available():
        sizes.pop()
    setup = height_weight(sizes)
    shards = [setup.shard(client) for client in range(len(sizes))]
    with CohortTrainer(setup.model, setup.local) as trainer:
        updates = trainer.train(setup.initial, shards, list(range(len(sizes))))
    gradients = -updates / RATE
    weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    pooled = pooled_gradient(setup, setup.initial)
    assert (weights @ gradients - pooled).abs().max() < 1e-12


def test_fedavg_with_one_full_batch_step_is_gradient_descent() -> None:
    setup = height_weight([4, 3, 3], rounds=50)
    released = Federation(setup).run().released
    w = setup.initial.clone()
    for _ in range(50):
        w -= RATE * pooled_gradient(setup, w)
    assert (released - w).abs().max() < 1e-12


def test_with_several_local_steps_it_is_not() -> None:
    setup = height_weight([8, 1, 1], rounds=5, epochs=5)
    released = Federation(setup).run().released
    w = setup.initial.clone()
    for _ in range(25):
        w -= RATE * pooled_gradient(setup, w)
    assert (released - w).abs().max() > 1e-6


def test_weighted_and_unweighted_averages_differ_as_they_should_on_unequal_clients() -> None:
    setup = height_weight([8, 2])
    weighted = Federation(setup).run().released - setup.initial
    unweighted = Federation(dataclasses.replace(setup, weighting="uniform")).run().released - setup.initial
    with CohortTrainer(setup.model, setup.local) as trainer:
        one, two = trainer.train(setup.initial, [setup.shard(0), setup.shard(1)], [0, 1])
    torch.testing.assert_close(weighted, 0.8 * one + 0.2 * two, atol=1e-14, rtol=0)
    torch.testing.assert_close(unweighted, 0.5 * one + 0.5 * two, atol=1e-14, rtol=0)
    assert (weighted - unweighted).norm() == pytest.approx(0.3 * float((one - two).norm()))


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_fedprox_pulls_towards_the_global_model(mu: float) -> None:
    free = height_weight([5, 5], epochs=20)
    held = dataclasses.replace(free, local=dataclasses.replace(free.local, proximal=mu))
    moved = [Federation(setup).run().released - setup.initial for setup in (free, held)]
    assert moved[1].norm() < moved[0].norm()
