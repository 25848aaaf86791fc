"""The workload that every framework is measured on. Imports torch alone, so that it runs in every environment."""

import statistics
import time

import torch
from torch import nn

CLIENTS, SHARD, COHORT, BATCH, RATE, CLASSES = 100, 600, 10, 32, 0.1, 10

# Forward and backward floating point operations per example (the backward pass of a layer costs its forward pass
# twice, but for the inputs of the first layer), from the shapes below.
FLOP_PER_EXAMPLE = {"mlp": 0.640e6, "lenet": 2.26e6, "cnn": 72.4e6}


def module(name):
    """The architectures, each the same for every framework: pooling stands before the ReLU."""
    torch.manual_seed(0)
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, CLASSES))
    if name == "lenet":
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, CLASSES),
    )  # fmt: skip


def data():
    """Synthetic 28x28 images that can be learnt, and which rows each client holds ``(100, 600)``."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (CLIENTS * SHARD,), generator=draw)
    means = torch.rand(CLASSES, 1, 28, 28, generator=draw)
    x = torch.rand(CLIENTS * SHARD, 1, 28, 28, generator=draw).mul_(0.7).add_(means[y], alpha=0.3)
    rows = torch.randperm(CLIENTS * SHARD, generator=draw).view(CLIENTS, SHARD)
    return x, y, rows


def cohort(round_):
    """The clients of a round."""
    return torch.randperm(CLIENTS, generator=torch.Generator().manual_seed(round_))[:COHORT].tolist()


def accuracy(model, x, y):
    """Share of 2,000 examples classified correctly: shows that the rounds train."""
    with torch.no_grad():
        return (model(x[:2000]).argmax(1) == y[:2000]).float().mean().item()


def timed(step, *, warmup, rounds):
    """Seconds of each round after the warm-up."""
    seconds = []
    for round_ in range(warmup + rounds):
        begin = time.perf_counter()
        step(round_)
        seconds.append(time.perf_counter() - begin)
    return seconds[warmup:]


def median(seconds):
    """Median."""
    return statistics.median(seconds)
