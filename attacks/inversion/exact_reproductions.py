"""What is exact about gradients, on public images; see ``fedsec repro``."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.data.cache import data_root
from fedsec.data.embedded import HeightWeight
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.data.images import CIFAR10, MNIST
from fedsec.judges.image_quality import psnr
from fedsec.models.convolutional import LeNet, LeNetSigmoid
from fedsec.models.dense import MLP
from fedsec.models.flat import FlatModel
from fedsec.models.source import ModelSource
from fedsec.randomness import derive_seed, numpy_generator
from fedsec.randomness import generator as seeded
from fedsec.statistics.bootstrap import bootstrap_mean

from .closed_form import invert_linear
from .counts import label_counts
from .labels import counts, moments, sign_rule
from .layers import LinearSlots, head
from .linear_model import linear_model_input
from .recursion import leaves, solve
from .rgap import start_at_head

SINGLES = 100
"""Images whose label is read one by one."""
BATCHES = 40
"""Batches per size, each with a network of its own."""
SIZES = (8, 32, 100)
STEPS, RATE = 5, 0.01
"""Local steps on the whole batch behind a FedAvg delta, and their rate."""
RECURSIONS = {"mnist": 5, "cifar10": 3}
"""Images that are solved for; a colour image takes about ten seconds."""

Figure = float | tuple[float, float, float]


def _data() -> dict[str, tuple[DatasetInfo, Examples]]:
    root = data_root()
    return {"mnist": (MNIST.info, MNIST().load(root).train), "cifar10": (CIFAR10.info, CIFAR10().load(root).train)}


def _untrained(source: ModelSource, info: DatasetInfo, *purpose: object) -> FlatModel:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed("exact-reproduction", *(str(part) for part in purpose)))
        return FlatModel.of(source.build(info), task=info.task, name=source.name)


def _gradient(model: FlatModel, state: Tensor, batch: Examples) -> Tensor:
    module = model.instance(state)
    loss = model.loss(module(batch.x), batch.y).mean()
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(module.parameters()))])


def _delta(model: FlatModel, state: Tensor, batch: Examples) -> Tensor:
    local = state.clone()
    for _ in range(STEPS):
        local[: model.layout.trainable] -= RATE * _gradient(model, local, batch)
    return (local - state)[: model.layout.trainable]


def _agreement(found: Tensor, batch: Examples) -> float:
    true = torch.bincount(batch.y, minlength=len(found))
    return float(torch.minimum(found, true).sum()) / len(batch)


def labels() -> dict[str, Figure]:
    """The sign rule of iDLG on single images, and label counts of batches with repeats, on untrained networks.

    Single images: the sigmoid LeNet with weights from U(-0.5, 0.5), as in the paper, ten images per network. Batches:
    LeNet-5 as it is initialised by default, drawn with replacement, so labels repeat; ``moments`` and ``impact`` are
    given nothing but the head's gradient, ``embeddings`` the head's parameters too, and the head ``without bias``
    the model, run on uniform noise for its moments.
    """
    found: dict[str, Figure] = {}
    for name, (info, examples) in _data().items():
        draw = seeded("labels", name)
        with_bias = without = 0
        for index, row in enumerate(torch.randperm(len(examples), generator=draw)[:SINGLES].tolist()):
            model = _untrained(LeNetSigmoid(), info, "idlg", name, index // 10)
            state, one = model.vector(), examples.take([row])
            weight, bias = head(model, state, info.input_shape).read(_gradient(model, state, one))
            with_bias += sign_rule(weight, bias) == int(one.y)
            without += sign_rule(weight, None) == int(one.y)
        found[f"idlg | {name} | with bias"] = with_bias / SINGLES
        found[f"idlg | {name} | without bias"] = without / SINGLES
        for size in SIZES:
            shares: dict[str, list[float]] = {}
            for index in range(BATCHES):
                model = _untrained(LeNet(), info, "counts", name, size, index)
                batch = examples.take(torch.randint(len(examples), (size,), generator=draw))
                noise = torch.rand(256, *info.input_shape, generator=draw)
                for method, guess in _counted(model, batch, info, noise).items():
                    shares.setdefault(method, []).append(_agreement(guess, batch))
            for method, values in shares.items():
                found[f"{method} | {name} | B = {size}"] = _mean(values, method, name, size)
    return found


def _counted(model: FlatModel, batch: Examples, info: DatasetInfo, noise: Tensor) -> dict[str, Tensor]:
    """Counts of one batch by each estimator."""
    state, size = model.vector(), len(batch)
    slots = head(model, state, info.input_shape)
    weight, bias = slots.read(_gradient(model, state, batch))
    delta, delta_bias = slots.read(_delta(model, state, batch))
    own, own_bias = slots.read(state)
    parameters = None if own_bias is None else (own, own_bias)
    softmax, _ = moments(model, slots, state, noise)
    features = moments(model, LinearSlots(slots.weight, None), state, noise)[1]
    return {
        "moments": label_counts(weight, bias, batch_size=size, method="moments"),
        "impact": label_counts(weight, bias, batch_size=size, method="impact"),
        "embeddings": label_counts(weight, bias, batch_size=size, method="embeddings", head=parameters),
        "moments on a FedAvg delta": label_counts(delta, delta_bias, batch_size=size, scale=-RATE * STEPS),
        "embeddings on a FedAvg delta": label_counts(
            delta, delta_bias, batch_size=size, method="embeddings", scale=-RATE * STEPS, head=parameters
        ),
        "moments without bias": label_counts(weight, None, batch_size=size, softmax=softmax, feature_sum=features),
        "embeddings on a clipped gradient": counts(
            0.01 * weight, None if bias is None else 0.01 * bias, (own, own_bias), (softmax, features), size
        ),
    }


def _mean(values: list[float], *purpose: object) -> tuple[float, float, float]:
    low, high = bootstrap_mean(values, generator=numpy_generator("labels", *(str(part) for part in purpose)))
    return sum(values) / len(values), low, high


def exact() -> dict[str, Figure]:
    """Relative errors of the closed forms in single precision, and the images that the recursion solves for.

    The linear layer is the first of an untrained MLP: images alone, and images alone in a row of a batch of 8. The
    regression is height to weight with one example per gradient.
    """
    data = _data()
    info, examples = data["mnist"]
    draw = seeded("exact")
    alone: list[float] = []
    in_batch: list[float] = []
    for index in range(20):
        model = _untrained(MLP(), info, "linear", index)
        state = model.vector()
        weight_slot, bias_slot = model.layout.parameters[:2]
        slots = LinearSlots(weight_slot, bias_slot)
        for size, errors in ((1, alone), (8, in_batch)):
            batch = examples.take(torch.randint(len(examples), (size,), generator=draw))
            weight, bias = slots.read(_gradient(model, state, batch))
            own, own_bias = slots.read(state)
            active = (batch.x.flatten(1) @ own.T + (0.0 if own_bias is None else own_bias)) > 0
            lone = active.sum(0) == 1
            if bias is None or not bool(lone.any()):
                continue
            # of the rows in which an example is alone, those that the loss moved
            rows = lone & (bias != 0)
            true = batch.x.flatten(1)[active[:, rows].double().argmax(0)]
            got = invert_linear(weight[rows], bias[rows])
            errors.append(float(((got - true).norm(dim=1) / true.norm(dim=1)).max()))
    found: dict[str, Figure] = {
        "linear layer | one image | largest relative error": max(alone),
        "linear layer | alone in a row of 8 | largest relative error": max(in_batch),
        **_regression(),
    }
    for name, (shape, images) in data.items():
        ratios, relative = zip(
            *(_recursion(shape, images.take([row]), name, row) for row in range(RECURSIONS[name])), strict=True
        )
        found[f"r-gap | lenet-sigmoid on {name} | psnr"] = sum(ratios) / len(ratios)
        found[f"r-gap | lenet-sigmoid on {name} | largest relative error"] = max(relative)
    return found


def _regression() -> dict[str, Figure]:
    """Height to weight, ``g = (x w + b - y) x`` in single precision, with a bias and with a known target."""
    data = HeightWeight().load(None).train
    known = data.x.flatten() != 0  # the height that is the mean has no relative error, and without a bias no gradient
    x, y = data.x.flatten()[known].float(), data.y.flatten()[known].float()
    weight, offset = torch.tensor([3.0]), 50.0
    residual = x * weight + offset - y
    divided, solved = [], []
    for height, target, slope in zip(x, y, residual, strict=True):
        gradient = (slope * height).reshape(1)
        (got,) = invert_linear(gradient.view(1, 1), slope.reshape(1))
        divided.append(float((got[0] - height).abs() / height.abs()))
        roots = linear_model_input(gradient, weight, offset, float(target))
        solved.append(min(float((root[0] - height).abs() / height.abs()) for root in roots))
    return {
        "linear regression | with bias | largest relative error": max(divided),
        "linear regression | known target | largest relative error": max(solved),
    }


def _recursion(info: DatasetInfo, one: Examples, name: str, index: int) -> tuple[float, float]:
    """PSNR in dB and relative error of one image on the sigmoid LeNet."""
    model = _untrained(LeNetSigmoid(), info, "r-gap", name, index)
    state = model.vector()
    gradient = _gradient(model, state, one).double()
    chain = leaves(model, state.double(), info.input_shape)
    slots = head(model, state, info.input_shape)
    top, _, scale = start_at_head(*slots.read(gradient), slots, state.double())
    by_name = {slot.name: slot for slot in model.layout.parameters}
    weights = {
        layer: gradient[slot.start : slot.stop].reshape(slot.shape) / scale
        for layer, _, _ in chain[:-1]
        if (slot := by_name.get(f"{layer}.weight")) is not None
    }
    value, _ = solve(chain[:-1], weights, top)
    got = value.float().view(one.x.shape)
    ratio = float(psnr(got.clamp(0, 1), one.x, info.bounds or (0.0, 1.0)))
    return ratio, float((got - one.x).norm() / one.x.norm())
