"""Gradients of lanes that share a model, against one plain double backward pass per lane."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.inversion.folded import SharedGradients, Unsupported
from fedsec.attacks.inversion.matching import LaneGradients, cosine_distance, one_hot, soft_loss
from fedsec.attacks.inversion.winograd import Transforms, WinogradConv
from fedsec.models.flat import FlatModel


def _block(norm: str, channels: int) -> list[nn.Module]:
    return {
        "none": [],
        "batch": [nn.BatchNorm2d(channels)],
        "group": [nn.GroupNorm(2, channels)],
        "apart": [nn.Identity(), nn.BatchNorm2d(channels)],  # not next to its convolution, so it is not folded
    }[norm]


def _network(norm: str, activation: type[nn.Module], channels: int, bias: bool, stride: int) -> nn.Sequential:
    size = -(-9 // stride)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=stride, bias=bias),
        *_block(norm, 4),
        activation(),
        nn.Conv2d(4, channels, 3, padding=1, bias=bias),
        *_block(norm, channels),
        activation(),
        nn.Conv2d(channels, channels, 3, padding=1),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(channels * (size // 2) ** 2, 5, bias=bias),
    )


def _randomised(module: nn.Module, generator: torch.Generator) -> FlatModel:
    """Gains, shifts and running statistics away from one and zero."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
                part.weight.copy_(0.5 + torch.rand(part.weight.shape, generator=generator))
                part.bias.copy_(torch.randn(part.bias.shape, generator=generator) / 4)
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.copy_(torch.randn(part.weight.shape, generator=generator) / 4)
                part.running_var.copy_(0.5 + torch.rand(part.weight.shape, generator=generator))
    return FlatModel.of(module.double(), task="classification", name="test")


def _slow(model: FlatModel, state, x, y, target, *, public: bool):
    """Gradients, distances and their slopes in the inputs, one lane after another with ``torch.autograd`` alone."""
    gradients, distances, slopes = [], [], []
    for inputs, soft, wanted in zip(x, y, target, strict=True):
        module = model.instance(state)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and not public:
                part.train()
        leaf = inputs.clone().requires_grad_()
        loss = nn.functional.cross_entropy(module(leaf), soft)
        parts = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
        flat = torch.cat([part.flatten() for part in parts])
        distance = 1 - nn.functional.cosine_similarity(flat, wanted, dim=0)
        gradients.append(flat.detach())
        distances.append(distance.detach())
        slopes.append(torch.autograd.grad(distance, leaf)[0])
    return torch.stack(gradients), torch.stack(distances), torch.stack(slopes)


def _fast(gradients, x, y, target):
    leaf = x.clone().requires_grad_()
    flat = gradients(leaf, y)
    distance = cosine_distance(flat, target)
    (slope,) = torch.autograd.grad(distance.sum(), leaf)
    return flat.detach(), distance.detach(), slope


@settings(max_examples=15, deadline=None)
@given(
    norm=st.sampled_from(["none", "batch", "group", "apart"]),
    activation=st.sampled_from([nn.Sigmoid, nn.ReLU, nn.Tanh]),
    channels=st.sampled_from([6, 34]),  # 34 runs by Winograd's algorithm
    bias=st.booleans(),
    stride=st.sampled_from([1, 2]),
    lanes=st.integers(1, 3),
    size=st.integers(1, 3),
    public=st.booleans(),
    unfolded=st.sampled_from([0, 1 << 30]),
    smallest=st.sampled_from([1, 99]),
    seed=st.integers(0, 99),
)
def test_it_equals_plain_autograd(
    norm, activation, channels, bias, stride, lanes, size, public, unfolded, smallest, seed
) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsec.attacks.inversion.lane_products.UNFOLDED", unfolded)
        patch.setattr("fedsec.attacks.inversion.lane_products.FEW_PLACES", 0)
        patch.setattr("fedsec.attacks.inversion.winograd.SMALLEST", smallest)
        torch.default_generator.manual_seed(seed)
        model = _randomised(_network(norm, activation, channels, bias, stride), generator)
        state = model.vector()
        x = torch.rand(lanes, size, 2, 9, 9, generator=generator, dtype=torch.float64)
        y = torch.rand(lanes, size, 5, generator=generator, dtype=torch.float64).softmax(-1)
        target = torch.randn(lanes, model.layout.trainable, generator=generator, dtype=torch.float64)
        mode = "public" if public else "private"
        lanes_gradients = LaneGradients(model, state.expand(lanes, -1), batch_norm=mode)
        assert lanes_gradients._groups  # the fast way was taken
        found = _fast(lanes_gradients, x, y, target)
        expected = _slow(model, state, x, y, target, public=public)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("channels", [8, 34])
def test_single_precision_stays_within_rounding(channels, monkeypatch) -> None:
    monkeypatch.setattr("fedsec.attacks.inversion.winograd.SMALLEST", 1)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        exact = _randomised(_network("batch", nn.Sigmoid, channels, True, 1), generator)
    single = FlatModel.of(exact.module.float(), task="classification", name="test")
    x = torch.rand(3, 2, 2, 9, 9, generator=generator)
    y = one_hot(torch.randint(5, (3, 2), generator=generator), 5, x)
    target = torch.randn(3, single.layout.trainable, generator=generator)
    found = _fast(LaneGradients(single, single.vector().expand(3, -1), batch_norm="public"), x, y, target)
    doubled = FlatModel.of(exact.module.double(), task="classification", name="test")
    expected = _slow(doubled, doubled.vector(), x.double(), y.double(), target.double(), public=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_lanes_of_two_models_keep_their_places() -> None:
    generator = torch.Generator().manual_seed(1)
    model = _randomised(_network("none", nn.Sigmoid, 6, True, 1), generator)
    first = model.vector()
    states = torch.stack([first, first + 0.1, first, first + 0.1, first + 0.2])
    x = torch.rand(5, 1, 2, 9, 9, generator=generator, dtype=torch.float64)
    y = one_hot(torch.randint(5, (5, 1), generator=generator), 5, x)
    together = LaneGradients(model, states)
    found = together(x.requires_grad_(), y)
    assert len(together._groups) == 3
    for lane in range(5):
        alone = SharedGradients(model, states[lane])
        outputs = alone.outputs(x[lane : lane + 1])
        torch.testing.assert_close(
            found[lane : lane + 1], alone(outputs, soft_loss(outputs, y[lane : lane + 1]).mean(-1))
        )


class _Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.position = nn.Linear(4, 3), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.layer(x + self.position)


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


@pytest.mark.parametrize(
    "module", [_Owner(), nn.Sequential(nn.LSTM(4, 3)), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))]
)
def test_other_parameters_are_refused_and_served_the_slow_way(module) -> None:
    model = FlatModel.of(module, task="classification", name="test")
    with pytest.raises(Unsupported):
        SharedGradients(model, model.vector())


def test_a_layer_that_runs_twice_is_served_the_slow_way() -> None:
    model = FlatModel.of(_Twice(), task="classification", name="test")
    x = torch.rand(2, 3, 4)
    y = one_hot(torch.tensor([[0, 1, 2], [3, 0, 1]]), 4, x)
    found = LaneGradients(model, model.vector().expand(2, -1))(x.requires_grad_(), y)
    for lane in range(2):
        module = model.instance(model.vector())
        loss = nn.functional.cross_entropy(module(x[lane]), y[lane])
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
        torch.testing.assert_close(found[lane], expected)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(3, 11), width=st.integers(3, 11), channels=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_winograd_convolves(height, width, channels) -> None:
    generator = torch.Generator().manual_seed(height * width)
    module = nn.Conv2d(*channels, 3, padding=1).double()
    x = torch.randn(2, channels[0], height, width, generator=generator, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsec.attacks.inversion.winograd.SMALLEST", 1)
        torch.testing.assert_close(WinogradConv(module)(x), module(x))


def test_each_transform_has_its_transpose() -> None:
    transforms, generator = Transforms(torch.zeros((), dtype=torch.float64)), torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, tiles, weight = random(2, 6, 9, 3), random(36, 2 * 2 * 3, 3), random(4, 3, 3, 3)
    there, back = transforms.inputs(x), transforms.inputs_adjoint(tiles, x.shape)
    torch.testing.assert_close((there * tiles).sum(), (x * back).sum())
    there, back = transforms.outputs(tiles, x.shape), transforms.outputs_adjoint(x)
    torch.testing.assert_close((there * x).sum(), (tiles * back).sum())
    products = random(36, 4, 3)
    there, back = transforms.weights(weight), transforms.weights_adjoint(products)
    torch.testing.assert_close((there * products).sum(), (weight * back).sum())
