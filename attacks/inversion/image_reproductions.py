"""What `fedsec repro inverting-gradients` measures: the quality of images by gradient matching, by model and stage."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsec.data.cache import data_root
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.data.images import CIFAR10
from fedsec.judges.image_quality import psnr, ssim
from fedsec.measure import identifiability
from fedsec.models.convolutional import ConvNet, LeNetSigmoid
from fedsec.models.flat import FlatModel
from fedsec.models.source import ModelSource
from fedsec.randomness import derive_seed, numpy_generator
from fedsec.randomness import generator as seeded
from fedsec.statistics.bootstrap import bootstrap_mean

from .engine import solve
from .matching import one_hot
from .objective import Matching, Prior
from .observed import observe
from .recipe import DISTANCES, Recipe
from .victims import layer_spans

TARGETS = 24
"""Images, each the whole batch behind one gradient."""
DECOYS = 19
"""Images of the true class that each target is ranked among, so that a guess is right once in 20."""
TRAINED_ON = 2000
"""Images that the trained models saw; the targets are not among them, as in the paper."""
MODELS: dict[str, ModelSource] = {"lenet": LeNetSigmoid(), "convnet": ConvNet(widths=(32, 64))}
RECIPES = {
    "lenet": Recipe(evaluations=1500, restarts=1, tv=1e-4, labels="oracle"),
    "convnet": Recipe(evaluations=400, restarts=1, tv=2e-2, labels="oracle"),
}
"""Geiping et al. 2020, appendix A, with fewer evaluations than its 24,000, and one start; labels are known."""


def inverting_gradients() -> dict[str, tuple[float, float, float]]:
    """PSNR, SSIM and identifiability of Inverting Gradients, by model and by whether it was trained.

    Returns:
        The mean over targets with its 95 % bootstrap interval, keyed ``model | untrained or trained | measure``.
    """
    dataset = CIFAR10(variant="exact").load(data_root())
    order = torch.randperm(len(dataset.train), generator=seeded("inverting-gradients", "targets"))
    pool = dataset.train.take(order)
    targets, seen = pool.take(range(TARGETS)), pool.take(range(TARGETS, TARGETS + TRAINED_ON))
    public = pool.take(range(TARGETS + TRAINED_ON, len(pool)))
    found: dict[str, tuple[float, float, float]] = {}
    for name, source in MODELS.items():
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed("inverting-gradients", name))
            model = FlatModel.of(source.build(dataset.info), task=dataset.info.task, name=name)
        initial = model.vector()
        for stage, state in (("untrained", initial), ("trained", trained(model, initial, seen))):
            images = reconstructed(model, state, targets, dataset.info, RECIPES[name])
            for measure, units in measures(images, targets, public).items():
                low, high = bootstrap_mean(units.numpy(), generator=numpy_generator("inverting-gradients", measure))
                found[f"{name} | {stage} | {measure}"] = (float(units.mean()), low, high)
    return found


def trained(
    model: FlatModel, state: Tensor, examples: Examples, *, rate: float = 0.01, epochs: int = 10, batch_size: int = 32
) -> Tensor:
    """The state after training by SGD with momentum 0.9, ``(d,)``."""
    module, draw = model.instance(state).train(), seeded("inverting-gradients", "training")
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(examples), generator=draw), batch_size):
            optimizer.zero_grad()
            loss = model.loss(module(examples.x[rows]), examples.y[rows]).mean()
            torch.autograd.backward(loss)
            optimizer.step()
    return FlatModel.of(module, task=model.task, name=model.name).vector()


def reconstructed(model: FlatModel, state: Tensor, targets: Examples, info: DatasetInfo, recipe: Recipe) -> Tensor:
    """One image per target, ``(n, *input_shape)``, from the gradient of that target alone and its label."""
    module = model.instance(state)
    gradients = []
    for row in range(len(targets)):
        loss = model.loss(module(targets.x[row : row + 1]), targets.y[row : row + 1]).mean()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]))
    seen, bounds = torch.stack(gradients), info.bounds or (0.0, 1.0)
    draw = seeded("inverting-gradients", "starts")
    low, high = bounds
    noise = torch.randn(len(targets), math.prod(info.input_shape), generator=draw)
    matching = Matching(
        model=model,
        states=state.expand(len(targets), 1, -1),
        targets=seen,
        labels=one_hot(targets.y, len(info.classes), seen).unsqueeze(1),
        size=1,
        input_shape=tuple(info.input_shape),
        observed=observe(seen, seen, layer_spans(model)),
        distance=DISTANCES[recipe.distance],
        prior=Prior(tv=torch.full((len(targets),), recipe.tv), bounds=bounds),
    )
    start = (low + high) / 2 + (high - low) / 4 * noise
    solution = solve(matching, start, recipe, bounds=bounds, generator=draw)
    return solution.x.view(len(targets), *info.input_shape)


def measures(images: Tensor, targets: Examples, public: Examples) -> dict[str, Tensor]:
    """Of each target, ``(n,)``: PSNR in dB, SSIM, and whether it is the nearest of its class to its image."""
    decoys = torch.stack([public.x[(public.y == label).nonzero().flatten()[:DECOYS]] for label in targets.y])
    first = identifiability(images, targets.x, decoys).ranks == 1
    return {
        "psnr": psnr(images, targets.x, (0.0, 1.0)),
        "ssim": ssim(images, targets.x, (0.0, 1.0)),
        "identifiability": first.double(),
    }
