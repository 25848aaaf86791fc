"""fedsec's side of the comparison of inversion engines: the rows of one process as one batch of lanes."""

import argparse
import json
import time

import numpy as np
import torch
from torch import nn

from fedsec.attacks.inversion import engine
from fedsec.attacks.inversion.matching import one_hot
from fedsec.attacks.inversion.objective import Matching, Prior
from fedsec.attacks.inversion.observed import observe
from fedsec.attacks.inversion.recipe import DISTANCES, Recipe
from fedsec.attacks.inversion.victims import layer_spans
from fedsec.models.flat import FlatModel


def convnet(width):
    """The ``ConvNet`` of breaching: eight 3x3 convolutions with batch norm and two 3x3 pools."""
    layers = []
    for index, (inner, outer) in enumerate(((3, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 4), (4, 4), (4, 4))):
        channels = inner if index == 0 else inner * width
        layers += [nn.Conv2d(channels, outer * width, 3, padding=1), nn.BatchNorm2d(outer * width), nn.ReLU()]
        if index in (5, 7):
            layers.append(nn.MaxPool2d(3))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36 * width, 10))


def lenet():
    """The LeNet of the DLG authors, as breaching's ``LeNetZhu``, with parameters from U(-0.5, 0.5)."""
    layers, channels = [], 3
    for stride in (2, 2, 1):
        layers += [nn.Conv2d(channels, 12, 5, padding=2, stride=stride), nn.Sigmoid()]
        channels = 12
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.5, 0.5)
    return module


def module(case):
    """The architecture of a case."""
    return lenet() if case["model"] == "lenet" else convnet(case["width"])


def recipe(case):
    """The attack with breaching's settings, so that the engines do the same."""
    if case["attack"] == "dlg":
        return Recipe(
            distance="l2",
            optimizer="lbfgs",
            evaluations=case["evaluations"],
            restarts=1,
            box=False,
            labels="optimised",
            batch_norm="public",
        )
    return Recipe(
        distance="cosine",
        optimizer="signed-adam",
        evaluations=case["evaluations"],
        restarts=1,
        learning_rate=0.1 * case["std"],  # a share of the width of the box, which is 1 / std
        schedule="steps",
        labels="oracle",
        batch_norm="public",
        tv=0.2,
    )


class Watched(engine.Record):
    """Notes the best iterates so far, and the time spent, at given numbers of evaluations."""

    checkpoints = ()
    taken = ()

    def __init__(self, *given):
        super().__init__(*given)
        self.begin = time.process_time(), time.perf_counter()
        self.rows, self.last = [], ()
        Watched.taken += (self,)

    def add(self, *given):
        """See `Record.add`."""
        super().add(*given)
        self.last = time.process_time() - self.begin[0], time.perf_counter() - self.begin[1]
        if len(self.rows) < len(self.checkpoints) and self.evaluations.max() >= self.checkpoints[len(self.rows)]:
            self.take()

    def take(self):
        """A checkpoint now."""
        self.rows.append((*self.last, self.x[:, : 3 * 32 * 32].reshape(-1, 3, 32, 32).numpy().copy()))


def main():
    """Attack the rows that were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("exchange")
    parser.add_argument("output")
    parser.add_argument("--rows", type=int, nargs=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    held = np.load(given.exchange)
    case = json.loads(str(held["case"]))
    network = module(case)
    with torch.no_grad():
        for kind, tensors in (("parameter", network.parameters()), ("buffer", network.buffers())):
            for index, tensor in enumerate(tensors):
                tensor.copy_(torch.from_numpy(held[f"{kind}{index}"]))
    model = FlatModel.of(network, task="classification", name=case["model"])
    rows = slice(*given.rows)
    lanes = rows.stop - rows.start
    many = len(list(network.parameters()))
    targets = torch.cat([torch.from_numpy(held[f"gradient{i}"][rows]).flatten(1) for i in range(many)], 1)
    start = torch.from_numpy(held["start"][rows]).flatten(1)
    labels = one_hot(torch.from_numpy(held["labels"][rows]), 10, targets).unsqueeze(1)
    draw = torch.Generator().manual_seed(given.rows[0])
    if case["attack"] == "dlg":
        start, labels = torch.cat([start, torch.randn(lanes, 10, generator=draw)], 1), None
    bounds = (-case["mean"] / case["std"], (1 - case["mean"]) / case["std"])
    chosen = recipe(case)
    matching = Matching(
        model=model,
        states=model.vector().expand(lanes, 1, -1),
        targets=targets,
        labels=labels,
        size=1,
        input_shape=(3, 32, 32),
        observed=observe(targets, targets, layer_spans(model)),
        distance=DISTANCES[chosen.distance],
        prior=Prior(tv=torch.full((lanes,), chosen.tv), bounds=bounds),
        batch_norm="public",
    )
    Watched.checkpoints = case["checkpoints"]
    engine.Record = Watched
    begin = time.process_time(), time.perf_counter()
    solution = engine.solve(matching, start, chosen, bounds=bounds, generator=draw)
    whole = time.process_time() - begin[0], time.perf_counter() - begin[1]
    parts = [part for part in Watched.taken if part.last]  # the engine's summary of all parts was never added to
    for part in parts:
        while len(part.rows) < len(case["checkpoints"]):
            part.take()  # it ended early, and this is what it has
    np.savez(
        given.output,
        # The time of a part is shared by its lanes, so that sums over lanes are those over parts.
        cpu=np.concatenate([np.tile([r[0] / len(p.x) for r in p.rows], (len(p.x), 1)) for p in parts]),
        wall=np.concatenate([np.tile([r[1] / len(p.x) for r in p.rows], (len(p.x), 1)) for p in parts]),
        images=np.concatenate([np.stack([r[2] for r in p.rows], 1) for p in parts]),
        evaluations=solution.evaluations.flatten().numpy(),
        whole=whole,
    )


if __name__ == "__main__":
    main()
