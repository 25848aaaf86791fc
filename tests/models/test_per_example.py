"""Gradients of single examples beside a loop of backward passes, and beside opacus'."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zoo import IMAGE, ZOO, build, examples

from fedsec.models.flat import FlatModel
from fedsec.models.opacus_cnn import OpacusCNN
from fedsec.models.per_example import clipped_sums, per_example_gradients, written_out
from fedsec.models.single import SingleLane
from fedsec.models.stacked import VmapLanes, stacked_lanes
from fedsec.randomness import generator

WITHOUT_BATCH_NORM = [name for name in ZOO if "batch norm" not in name]
STACKABLE = [name for name in WITHOUT_BATCH_NORM if "rnn" not in name]
CIFAR = (
    nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(64, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(2048, 10),
)  # fmt: skip


def drawn(*parts: nn.Module) -> FlatModel:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(3)
        for part in parts:
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return FlatModel.of(nn.Sequential(*parts), task="classification", name="net")


def lanes_of(model: FlatModel, kind: str, count: int = 2, dtype: torch.dtype = torch.float64):
    noise = torch.randn(count, model.layout.size, generator=generator("lanes"))
    state = (model.vector() + 0.1 * noise).to(dtype)
    if kind == "single":
        lanes = SingleLane(model, device="cpu", dtype=dtype)
        lanes.load(state[0])
    else:
        lanes = VmapLanes(model, state) if kind == "vmap" else stacked_lanes(model, state)
    lanes.begin_step(torch.arange(1 if kind == "single" else count) + 17)
    return lanes


def one_by_one(lanes, x, y):
    """The slow truth: a backward pass for each example."""
    rows = []
    for example in range(x.shape[1]):
        loss = lanes.losses(x[:, example : example + 1], y[:, example : example + 1], train=True).sum()
        rows.append(torch.autograd.grad(loss, lanes.parameters))
    return [torch.stack(parts, dim=1) for parts in zip(*rows, strict=True)]


def flat(gradients):
    return torch.cat([gradient.flatten(2) for gradient in gradients], dim=2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(n, kind) for n in WITHOUT_BATCH_NORM for kind in ("single", "stacked") if kind == "single" or n in STACKABLE],
)
def test_every_model_gives_what_a_loop_gives(name: str, kind: str) -> None:
    source, data = ZOO[name]
    if getattr(source, "dropout", 0.0):
        source = type(source)(**{**vars(source), "dropout": 0.0})
    model = build(source, data)
    lanes = lanes_of(model, kind)
    count = 1 if kind == "single" else 2
    pool = examples(data, 3 * count)
    x = pool.x.to(torch.float64) if pool.x.is_floating_point() else pool.x
    y = pool.y.to(torch.float64) if pool.y.is_floating_point() else pool.y
    x, y = x.view(count, 3, *x.shape[1:]), y.view(count, 3, *y.shape[1:])
    found, wanted = per_example_gradients(lanes, x, y), one_by_one(lanes, x, y)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 3), out=st.integers(1, 4), kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)), padding=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)), bias=st.booleans(), batch=st.integers(1, 3),
)  # fmt: skip
def test_convolutions(channels, out, kernel, stride, padding, dilation, bias, batch) -> None:
    layer = nn.Conv2d(channels, out, kernel, stride=stride, padding=padding, dilation=dilation, bias=bias)
    size = layer(torch.zeros(1, channels, 7, 6)).numel()
    model = drawn(layer, nn.Flatten(), nn.Linear(size, 2))
    assert written_out(model)
    lanes = lanes_of(model, "single")
    x = torch.randn(1, batch, channels, 7, 6, generator=generator("x"), dtype=torch.float64)
    y = torch.randint(2, (1, batch), generator=generator("y"))
    torch.testing.assert_close(flat(per_example_gradients(lanes, x, y)), flat(one_by_one(lanes, x, y)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), st.floats(0.01, 5), st.sampled_from(["single", "stacked", "vmap"]), st.data())
def test_clipped_sums_are_sums_of_clipped_gradients(batch: int, bound: float, kind: str, data: st.DataObject) -> None:
    """Joint norm over all layers; examples that are not there count nothing; an empty batch gives zeros."""
    model = drawn(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))
    lanes = lanes_of(model, kind)
    count = lanes.parameters[0].shape[0]
    x = 3 * torch.randn(count, batch, 6, generator=generator("x"), dtype=torch.float64)
    y = torch.randint(3, (count, batch), generator=generator("y"))
    present = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=batch, max_size=batch), min_size=count, max_size=count))
    ).bool()
    present = present.view(count, batch)
    sums, norms = clipped_sums(lanes, x, y, bound=bound, present=present)
    assert norms.shape == (count, batch)
    if batch == 0:
        assert all(not total.any() for total in sums)
        return
    whole = flat(one_by_one(lanes, x, y))
    torch.testing.assert_close(norms, whole.norm(dim=2))
    factors = (bound / whole.norm(dim=2)).clamp_max(1.0) * present
    wanted = (whole * factors[:, :, None]).sum(1)
    torch.testing.assert_close(torch.cat([total.flatten(1) for total in sums], dim=1), wanted)
    assert bool((wanted.norm(dim=1) <= bound * present.sum(1).double() + 1e-9).all())


def test_large_batches_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsec.models import per_example

    model = drawn(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    lanes = lanes_of(model, "single")
    x = torch.randn(1, 7, 1, 8, 8, generator=generator("x"), dtype=torch.float64)
    y = torch.randint(3, (1, 7), generator=generator("y"))
    whole = clipped_sums(lanes, x, y, bound=0.5)
    monkeypatch.setattr(per_example, "_VALUES", 2 * model.layout.trainable)
    parts = clipped_sums(lanes, x, y, bound=0.5)
    torch.testing.assert_close(parts, whole)


def test_layers_that_are_not_written_out_are_batched_or_looped_over() -> None:
    """In place, tied, grouped or used twice: the result stays right."""
    tied = nn.Linear(8, 8)
    for model in (
        drawn(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 3)),
        drawn(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(72, 3)),
        drawn(tied, nn.Tanh(), tied, nn.Flatten(), nn.Linear(64, 3)),
    ):
        channels = 2 if getattr(model.module[0], "groups", 1) == 2 else 1
        x = torch.randn(1, 4, channels, 8, 8, generator=generator("x"), dtype=torch.float64)
        y = torch.randint(3, (1, 4), generator=generator("y"))
        lanes = lanes_of(model, "single")
        torch.testing.assert_close(flat(per_example_gradients(lanes, x, y)), flat(one_by_one(lanes, x, y)))


def test_a_dropped_unit_is_dropped_for_one_example() -> None:
    """Under vmap too, every example has a mask of its own."""
    model = FlatModel.of(
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 1, bias=False)),
        task="regression", name="net",
    )  # fmt: skip
    x, y = torch.ones(1, 6, 1, 8, 8), torch.ones(1, 6)
    for kind in ("single", "vmap"):
        last = per_example_gradients(lanes_of(model, kind, 1, torch.float32), x, y)[-1][0, :, 0]
        masks = last != 0
        assert len({tuple(mask.tolist()) for mask in masks}) == 6
        assert 0.35 < float(masks.float().mean()) < 0.65


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("net", ["mnist", "cifar"])
def test_opacus_agrees(net: str, dtype: torch.dtype) -> None:
    """The two networks of the comparison of speed: to a millionth of each example's gradient, in double far closer."""
    from opacus import GradSampleModule

    model = drawn(*CIFAR)
    if net == "mnist":
        model = FlatModel.of(OpacusCNN().build(IMAGE_28), task="classification", name="net")
    assert model.layout.trainable == (26_010 if net == "mnist" else 114_186)
    shape = (1, 28, 28) if net == "mnist" else (3, 32, 32)
    x, y = torch.rand(1, 8, *shape, generator=generator("x")), torch.randint(10, (1, 8), generator=generator("y"))
    x = x.to(dtype)
    lanes = SingleLane(model, device="cpu", dtype=dtype)
    lanes.load(model.vector().to(dtype))
    lanes.begin_step(torch.zeros(1, dtype=torch.int64))
    assert written_out(model)
    found = flat(per_example_gradients(lanes, x, y))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = GradSampleModule(model.instance(model.vector().to(dtype)).train(), loss_reduction="sum")
        nn.functional.cross_entropy(theirs(x[0]), y[0], reduction="sum").backward()
    wanted = torch.cat([parameter.grad_sample.flatten(1) for parameter in theirs.parameters()], dim=1)
    apart = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(apart.max()) <= (1e-6 if dtype == torch.float32 else 1e-13)


IMAGE_28 = type(IMAGE)(**{**vars(IMAGE), "input_shape": (1, 28, 28), "classes": tuple("0123456789")})
