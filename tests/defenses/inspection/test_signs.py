import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_scene import conv, federation, mlp
from torch import nn

from fedsec.data.examples import Examples
from fedsec.defenses.inspection.signs import (
    SIGNS,
    Response,
    copied_rows,
    disaggregation,
    head_imbalance,
    honest_walks,
    largest_step,
    lone_rows,
    responses,
    signs_of,
    silence,
    spread,
)
from fedsec.models.flat import FlatModel
from fedsec.randomness import generator


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 7))
def test_disaggregation_against_one_gradient_per_example(seed, examples):
    draw = generator(seed)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = FlatModel.of(mlp(9), task="classification", name="net")
    batch = Examples(torch.rand(examples, 1, 8, 8, generator=draw), torch.randint(10, (examples,), generator=draw))
    vector = model.vector()
    seen = responses(model, vector, batch)
    assert [one.name for one in seen] == ["1", "3"]
    module = model.instance(vector)
    for one in seen:
        weight = module.get_submodule(one.name).weight
        norms = torch.stack(
            [
                torch.autograd.grad(model.loss(module(x.unsqueeze(0)), y.unsqueeze(0)).sum(), weight)[0].norm()
                for x, y in zip(batch.x, batch.y, strict=True)
            ]
        ).double()
        rest = norms.square().sum() - norms.max().square()
        assert disaggregation(one) == pytest.approx(float(norms.max() / rest.sqrt()), rel=1e-4)


def test_known_answers():
    eye = torch.eye(4)
    assert copied_rows(eye) == 0.0
    assert copied_rows(torch.cat([eye, -3 * eye[:1]])) == pytest.approx(2 / 5)
    assert copied_rows(torch.cat([eye, torch.zeros(1, 4)])) == 1.0
    deltas = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 2.0]])
    response = Response("x", torch.ones(3, 2), deltas)
    assert lone_rows(response) == pytest.approx(1 / 3)
    assert silence(response) == pytest.approx(5 / 9)
    assert disaggregation(Response("x", torch.ones(3, 2), torch.zeros(3, 2))) == 0.0
    assert disaggregation(Response("x", torch.ones(2, 2), torch.tensor([[1.0], [0.0]]))) == pytest.approx(1e6)
    assert head_imbalance(eye, torch.zeros(4)) == 1.0
    assert head_imbalance(torch.cat([eye[:3], 7 * eye[3:]]), torch.zeros(4)) == pytest.approx(7.0)


def test_the_largest_step_is_relative_to_the_tensor():
    with torch.random.fork_rng(devices=[]):
        model = FlatModel.of(nn.Linear(3, 3, bias=False), task="classification", name="net")
    start = torch.ones(9)
    assert largest_step(model, start * 1.5, start) == pytest.approx(0.5)
    assert largest_step(model, start, start) == 0.0


def test_batches_are_not_mixed_by_batch_norm():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    with torch.random.fork_rng(devices=[]):
        model = FlatModel.of(module, task="classification", name="net")
    draw = generator(2)
    batch = Examples(torch.rand(4, 1, 8, 8, generator=draw), torch.arange(4))
    whole = responses(model, model.vector(), batch)[0].deltas
    alone = responses(model, model.vector(), batch.take([1]))[0].deltas
    assert torch.allclose(whole[1:2], alone, atol=1e-6)


@pytest.mark.parametrize("make", [mlp, conv])
def test_simulated_honest_models_look_honest(make):
    setup = federation(make)
    shard = setup.shard(0).examples()
    models = honest_walks(
        setup.model, setup.initial, shard, walks=2, steps=3, rates=(0.01, 0.05), generator=generator(0)
    )
    assert len(models) == 7
    assert torch.equal(models[0][0], setup.initial)
    length = float(setup.initial.norm())
    assert float((models[1][0] - setup.initial).norm()) == pytest.approx(0.01 * length, rel=1e-3)
    assert float((models[4][0] - setup.initial).norm()) == pytest.approx(0.05 * length, rel=1e-3)
    signs = torch.stack([signs_of(setup.model, model, before, shard) for model, before in models])
    assert signs.shape == (7, len(SIGNS))
    assert bool(signs.isfinite().all())
    mean, deviation = spread(signs)
    assert bool(((signs - mean).abs() / deviation < 3).all())
