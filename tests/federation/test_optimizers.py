from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.federation.optimizers import LOCAL_OPTIMIZERS, initial_state, local_step, penalised, server_step
from fedsec.federation.training import LocalTraining
from fedsec.randomness import generator

TORCH = {
    "sgd": lambda p, rate: torch.optim.SGD(p, lr=rate),
    "momentum": lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.7),
    "adagrad": lambda p, rate: torch.optim.Adagrad(p, lr=rate),
    "rmsprop": lambda p, rate: torch.optim.RMSprop(p, lr=rate),
    "adam": lambda p, rate: torch.optim.Adam(p, lr=rate),
}


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(LOCAL_OPTIMIZERS), st.integers(0, 1000), st.sampled_from([1e-3, 0.1, 1.0]))
def test_local_optimizers_are_those_of_torch(name, seed, rate):
    draw = generator("optimizer", seed)
    vectors = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    gradients = torch.randn(6, 3, 5, generator=draw, dtype=torch.float64)
    gradients[2] = 0
    local = LocalTraining(optimizer=name, learning_rate=rate, momentum=0.7)
    parameter = vectors.clone().requires_grad_()
    theirs = TORCH[name]([parameter], rate)
    mine, state = vectors, initial_state(name, vectors)
    for step, gradient in enumerate(gradients):
        before = mine.clone()
        new, state = local_step(local, mine, gradient, state, step=step)
        assert torch.equal(before, mine)
        mine = new
        parameter.grad = gradient.clone()
        theirs.step()
        torch.testing.assert_close(mine, parameter.detach(), rtol=1e-12, atol=1e-12)


def test_penalties_are_added_to_the_gradient():
    local = LocalTraining(weight_decay=0.5, proximal=2.0)
    gradient, vector, start = torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([3.0])
    assert penalised(local, gradient, vector, start).item() == 1 + 0.5 * 4 + 2 * (4 - 3)


def test_plain_server_is_federated_averaging_exactly():
    draw = generator("server")
    model, delta = torch.randn(7, generator=draw), torch.randn(7, generator=draw)
    new, state = server_step("sgd", model, delta, {})
    assert torch.equal(new, model + delta)
    assert state == {}


def test_server_momentum_accumulates():
    model, state = torch.zeros(1), {}
    for expected in (1.0, 2.5, 4.25):
        model, state = server_step("sgd", model, torch.ones(1), state, momentum=0.5)
        assert model.item() == expected


def slow_adaptive(name, deltas, rate, beta1, beta2, tau):
    """Reddi et al. 2021, Algorithm 2, one coordinate at a time."""
    x = [0.0] * len(deltas[0])
    m, v = [0.0] * len(x), [tau**2] * len(x)
    for delta in deltas:
        for i, d in enumerate(delta):
            m[i] = beta1 * m[i] + (1 - beta1) * d
            sign = (v[i] > d * d) - (v[i] < d * d)
            v[i] = {
                "adagrad": v[i] + d * d,
                "yogi": v[i] - (1 - beta2) * d * d * sign,
                "adam": beta2 * v[i] + (1 - beta2) * d * d,
            }[name]
            x[i] += rate * m[i] / (v[i] ** 0.5 + tau)
    return x


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["adagrad", "adam", "yogi"]), st.integers(0, 1000))
def test_adaptive_servers_against_the_algorithm(name, seed):
    deltas = torch.randn(4, 3, generator=generator("deltas", seed), dtype=torch.float64)
    model, state = torch.zeros(3, dtype=torch.float64), {}
    options = {"learning_rate": 0.3, "beta1": 0.8, "beta2": 0.95, "tau": 0.01}
    for delta in deltas:
        model, state = server_step(name, model, delta, state, **options)
    slow = slow_adaptive(name, deltas.tolist(), 0.3, 0.8, 0.95, 0.01)
    torch.testing.assert_close(model, torch.tensor(slow, dtype=torch.float64))


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "yogi"])
def test_statistics_are_averaged_and_never_stepped(name):
    model, delta = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, -0.9])
    new, state = server_step(name, model, delta, {}, learning_rate=5.0, momentum=0.9, trainable=2)
    assert new[2].item() == pytest.approx(0.1)
    assert all(value.shape == (2,) for value in state.values())


def test_unknown_optimizers_are_refused():
    with pytest.raises(ValueError, match="lion"):
        server_step("lion", torch.zeros(1), torch.zeros(1), {})
    with pytest.raises(ValueError, match="lion"):
        initial_state("lion", torch.zeros(1))
