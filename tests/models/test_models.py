"""Every architecture: known sizes, every task, vmap, double backward, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo import NEXT, REGRESSION, SENTENCE, TABLE, ZOO, build, examples, info

from fedsec.errors import ConfigurationError
from fedsec.models.convolutional import AlexNet, ConvNet, LeNet, LeNetSigmoid, McMahanCNN
from fedsec.models.dense import MLP, Linear, Softmax
from fedsec.models.dense_plan import dense_plan
from fedsec.models.flat import FlatModel
from fedsec.models.recurrent import CharRNN, Recurrence
from fedsec.models.residual import ResNet
from fedsec.models.stacked import stacked_lanes
from fedsec.models.strided_cnn import StridedCNN
from fedsec.models.transformers import TransformerDecoder, TransformerEncoder

MNIST = info(shape=(1, 28, 28), classes=10)


@pytest.mark.parametrize(
    ("source", "parameters"),
    [
        (Linear(), 7850),
        (MLP(), 159_010),
        (MLP(hidden=(200, 200)), 199_210),
        (LeNet(), 61_706),
        (LeNetSigmoid(), 13_426),
        (ConvNet(), 50_186),
        (McMahanCNN(), 1_663_370),
        (StridedCNN(), 166_406),
        (StridedCNN(width=32, hidden=64), 234_794),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_known_sizes(source, parameters):
    assert build(source, MNIST).layout.size == parameters


@pytest.mark.parametrize("name", ZOO)
def test_outputs_fit_the_task_and_lanes_are_the_module(name):
    source, data = ZOO[name]
    model = build(source, data)
    batch = examples(data, 4)
    states = torch.stack([model.vector(), build(source, data, seed=1).vector()])
    lanes = stacked_lanes(model, states)
    outputs = lanes.outputs(torch.stack([batch.x, batch.x]), train=False)
    for state, out in zip(states, outputs, strict=True):
        torch.testing.assert_close(out, model.instance(state)(batch.x), rtol=1e-4, atol=1e-5)
    losses = model.loss(outputs, torch.stack([batch.y, batch.y]))
    assert losses.shape == (2, 4)


@pytest.mark.parametrize("name", ZOO)
def test_second_derivatives_exist_in_every_lane(name):
    """Gradient inversion differentiates a gradient."""
    source, data = ZOO[name]
    model = build(source, data)
    batch = examples(data, 2)
    lanes = stacked_lanes(model, model.vector().expand(2, -1).clone())
    x = torch.stack([batch.x, batch.x])
    if x.is_floating_point():
        x.requires_grad_()
    loss = lanes.losses(x, torch.stack([batch.y, batch.y]), train=False).sum()
    gradients = torch.autograd.grad(loss, lanes.parameters, create_graph=True)
    wanted = x if x.is_floating_point() else lanes.parameters[0]
    (second,) = torch.autograd.grad(sum(g.square().sum() for g in gradients), wanted)
    assert second.isfinite().all()
    assert second.abs().max() > 0


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrence_is_that_of_torch(cell):
    draw = torch.Generator().manual_seed(0)
    mine = Recurrence(3, 5, cell=cell)
    theirs = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](3, 5, batch_first=True)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            value = torch.randn(getattr(mine, name).shape, generator=draw)
            getattr(mine, name).copy_(value)
            getattr(theirs, f"{name}_l0").copy_(value)
    x = torch.randn(2, 7, 3, generator=draw)
    torch.testing.assert_close(mine(x), theirs(x)[0])


def test_decoder_does_not_look_ahead():
    model = build(TransformerDecoder(width=8, heads=2), NEXT)
    module = model.instance(model.vector())
    tokens = examples(NEXT, 1).x
    changed = tokens.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 11
    before, after = module(tokens), module(changed)
    torch.testing.assert_close(before[0, :3], after[0, :3])
    assert (before[0, 3:] - after[0, 3:]).abs().max() > 1e-4


@pytest.mark.parametrize("source", [TransformerEncoder(width=8, heads=2), CharRNN(width=4)])
def test_padding_after_a_sentence_changes_nothing(source):
    model = build(source, SENTENCE)
    module = model.instance(model.vector())
    padded = torch.tensor([[3, 4, 5, 0, 0, 0, 0]])
    torch.testing.assert_close(module(padded), module(padded[:, :5]))
    assert module(torch.zeros(1, 7, dtype=torch.long)).isfinite().all()


def test_wide_init_is_that_of_the_paper():
    vector = build(LeNetSigmoid(), MNIST).vector()
    assert 0.49 < vector.abs().max() <= 0.5
    assert build(LeNetSigmoid(wide_init=False), MNIST).vector()[:300].abs().max() <= 0.2


def test_dense_plan_takes_only_chains_of_dense_layers():
    shared = nn.ReLU()
    chain = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(4, 3), shared), nn.Linear(3, 3), shared, nn.Linear(3, 2)
    )
    plan = dense_plan(FlatModel.of(chain, task="classification", name="user"))
    assert plan is not None
    assert len(plan) == 6
    for module in (
        nn.Sequential(nn.Linear(4, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Softmax(-1)),
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Linear(4, 2),
    ):
        assert dense_plan(FlatModel.of(module, task="classification", name="user")) is None


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        (LeNet(), info(shape=(1, 8, 8)), "12x12"),
        (AlexNet(), TABLE, "images"),
        (ConvNet(widths=(4, 4, 4)), info(shape=(1, 6, 6)), "8x8"),
        (McMahanCNN(), SENTENCE, "images"),
        (ResNet(depth=9), info(shape=(3, 8, 8)), "depth: 8"),
        (MLP(), SENTENCE, "tokens"),
        (MLP(), NEXT, "tokens"),
        (Softmax(), REGRESSION, "Use model linear"),
        (CharRNN(), TABLE, "sequences"),
        (TransformerEncoder(), NEXT, "classification"),
        (TransformerDecoder(), SENTENCE, "next tokens"),
        (TransformerEncoder(heads=3), SENTENCE, "divide"),
    ],
)
def test_data_that_a_model_cannot_read_is_refused_with_a_reason(source, data, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        source.build(data)
    assert caught.value.problems[0].path.startswith("federation.model")
