import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.inversion.recursion import Patches, compressed
from fedsec.attacks.inversion.rgap import RGap
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View
from fedsec.randomness import generator

THREAT = RGap.threat


class Shifted(nn.Module):
    """Normalisation inside the model."""

    def forward(self, x):
        return (x - 0.3) / 0.4


def net(activation, *, bias=True, first=(12, 3, 2, 1), front=()):
    channels, kernel, stride, padding = first
    side = (8 + 2 * padding - kernel) // stride + 1
    module = nn.Sequential(
        *front,
        nn.Conv2d(1, channels, kernel, stride=stride, padding=padding, bias=bias),
        activation(),
        nn.Sequential(nn.Conv2d(channels, 12, 3, padding=1, bias=bias), activation()),
        nn.Flatten(),
        nn.Linear(12 * side * side, 10, bias=bias),
    )
    return FlatModel.of(module, task="classification", name="net")


def errors(scene, evidence):
    true = torch.cat([scene.truth.behind[source].x for source in evidence.sources])
    return (evidence.inputs - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
def test_the_equations_are_those_of_a_convolution_and_its_gradient(seed, kernel, stride, padding, dilation):
    """Against autograd."""
    draw = generator(seed, "patches")
    conv = nn.Conv2d(2, 3, kernel, stride, padding, dilation, bias=False).double()
    x = torch.rand(1, 2, 5, 6, generator=draw, dtype=torch.float64)
    z = conv(x)
    slope = torch.rand(z.shape, generator=draw, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(z, conv.weight, slope)
    patches = Patches.of(conv, (2, 5, 6))
    assert torch.allclose(patches.rows_of_weights(conv.weight.detach()) @ x.flatten(), z.detach().flatten())
    rows = patches.rows_of_gradient(slope[0].flatten(1))
    assert torch.allclose(rows @ x.flatten(), gradient.flatten())
    fewer, goal = compressed(slope[0].flatten(1), gradient.flatten(1))
    assert torch.allclose(patches.rows_of_gradient(fewer) @ x.flatten(), goal.flatten())
    assert fewer.shape[0] <= min(3, slope[0, 0].numel())


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda: net(nn.Sigmoid), 1e-5),
        (lambda: net(nn.Tanh), 1e-5),
        (lambda: net(lambda: nn.LeakyReLU(0.2), bias=False), 1e-5),
        (lambda: net(nn.Sigmoid, first=(8, 5, 1, 2)), 1e-5),
        (lambda: net(nn.Sigmoid, first=(20, 5, 3, 0)), 1e-5),
        (lambda: net(nn.Sigmoid, front=(Shifted(),)), 1e-5),
    ],
    ids=["sigmoid", "tanh", "leaky-relu-no-bias", "stride-1", "stride-3-no-padding", "normalised"],
)
def test_small_networks_give_their_input_to_fp32_rounding(scene, make, tolerance):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    s = scene(THREAT, model, clients=3)
    evidence = RGap().run(s.view, s.facts, generator=generator(0))
    # the update is the difference of two fp32 models, so its own rounding is a ten thousandth of its small entries
    assert float(errors(s, evidence).max()) < 2e-2
    exact = scene(THREAT, model, clients=3, change=lambda update: update)
    uploads = [dataclasses.replace(event, values=gradient_of(exact, event)) for event in exact.view.of(Topic.UPLOAD)]
    view = View("server", (*exact.view.of(Topic.BROADCAST), *uploads))
    evidence = RGap().run(view, exact.facts, generator=generator(0))
    assert float(errors(exact, evidence).max()) < tolerance
    result = exact.judge(evidence)
    assert result["identified"] == 1.0
    assert result["label_accuracy"] == 1.0
    assert result["psnr"] >= 60


def gradient_of(scene, event):
    """The update of one step without the rounding of the parameters that it was added to."""
    shard = scene.truth.behind[event.round, event.sender]
    module = scene.facts.model.instance(scene.facts.initial)
    loss = scene.facts.model.loss(module(shard.x), shard.y).mean()
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
    return -scene.facts.local.learning_rate * gradient


def test_clipping_by_norm_changes_little(scene):
    model = net(nn.Sigmoid)
    s = scene(THREAT, model, clients=2, stack=("clip(norm=0.01)",))
    uploads = [dataclasses.replace(event, values=0.01 * gradient_of(s, event)) for event in s.view.of(Topic.UPLOAD)]
    evidence = RGap().run(View("server", (*s.view.of(Topic.BROADCAST), *uploads)), s.facts, generator=generator(0))
    assert float(errors(s, evidence).max()) < 1e-4


def test_noise_and_another_client_s_gradient_bring_it_to_its_floor(scene, noise):
    model = net(nn.Sigmoid, first=(6, 3, 2, 1))
    s = scene(THREAT, model, clients=20, change=noise)
    attack = RGap(targets=20)
    assert s.judge(attack.run(s.view, s.facts, generator=generator(0)))["identified"] <= 0.3
    s = scene(THREAT, model, clients=20)
    uploads = s.view.of(Topic.UPLOAD)
    swapped = [dataclasses.replace(event, values=uploads[i - 1].values) for i, event in enumerate(uploads)]
    evidence = attack.run(View("server", (*s.view.of(Topic.BROADCAST), *swapped)), s.facts, generator=generator(0))
    assert s.judge(evidence)["identified"] <= 0.3


def test_what_it_cannot_go_through_is_not_applicable(scene):
    attack = RGap()
    layers = (nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10))
    pooled = FlatModel.of(nn.Sequential(*layers), task="classification", name="net")
    normed = FlatModel.of(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)),
        task="classification",
        name="net",
    )
    for model, message in ((pooled, "MaxPool2d"), (normed, "BatchNorm2d")):
        s = scene(THREAT, pooled, clients=2) if model is pooled else scene(THREAT, normed, clients=2, per_client=2)
        if model is normed:
            event = dataclasses.replace(s.view.of(Topic.UPLOAD)[0], about=(("examples", 1),))
            s = dataclasses.replace(s, view=View("server", (*s.view.of(Topic.BROADCAST), event)))
        with pytest.raises(NotApplicable, match=message):
            attack.run(s.view, s.facts, generator=generator(0))
    s = scene(THREAT, net(nn.Sigmoid), per_client=2)
    with pytest.raises(NotApplicable, match="several examples"):
        attack.run(s.view, s.facts, generator=generator(0))
    s = scene(THREAT, net(nn.Sigmoid), clients=2, local=LocalTraining(batch_size=None, epochs=3))
    with pytest.raises(NotApplicable, match="one local step"):
        attack.run(s.view, s.facts, generator=generator(0))
