"""What `fedsec repro` measures of federated adversarial training: all data at one client, ten alike, ten unlike."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsec.audit.build import Builder
from fedsec.config import config_from
from fedsec.data.examples import Examples
from fedsec.federation.engines import one_thread
from fedsec.federation.rounds import Federation
from fedsec.judges.masking import battery
from fedsec.parameters import rebuild
from fedsec.randomness import generator, numpy_generator
from fedsec.statistics.bootstrap import bootstrap_mean
from fedsec.statistics.intervals import wilson

from .gradient_ascent import pgd

Figures = dict[str, float | tuple[float, float, float]]

Reads = NDArray[np.bool_]
Outcome = tuple[dict[str, Reads], float | None]

CENTRAL = "central"
"""Label of the holder of all data, with whom the others are compared."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A federation, what its clients train against, and what its model is attacked with.

    Attributes:
        dataset: as in a configuration.
        clients: all of them train in every round; one is central training.
        partition: how the examples are spread over them.
        rounds: of training.
        epochs: of every client in a round.
        stack: defenses.
        eps: sizes of the attack, ``linf``, in units of the inputs, by how the figures call them.
    """

    dataset: Mapping[str, Any]
    clients: int
    partition: Mapping[str, Any]
    rounds: int
    epochs: int
    stack: tuple[Mapping[str, Any], ...]
    eps: Mapping[str, float]

    def configuration(self) -> dict[str, Any]:
        """The federation as a configuration states it."""
        return {
            "version": 1,
            "federation": {
                "dataset": dict(self.dataset),
                "partition": dict(self.partition),
                "model": "strided-cnn",
                "clients": self.clients,
                "rounds": self.rounds,
                "evaluate_every": self.rounds,
                "local": {
                    "epochs": self.epochs,
                    "batch_size": 25,
                    "optimizer": "adam",
                    "learning_rate": 0.003,
                    "schedule": "one-cycle",
                },
            },
            "attacks": [],
        }


ALIKE = {"name": "shuffle"}
APART = {"name": "dirichlet", "alpha": 0.1}
SIZE = 0.1
TRAINED = Case(
    dataset={"name": "mnist", "train": 4_000, "test": 2_000},
    clients=10,
    partition=ALIKE,
    rounds=30,
    epochs=4,
    stack=({"name": "pgd-at", "eps": SIZE, "steps": 3, "ramp": 5},),
    eps={"robust": SIZE},
)
UNDEFENDED = replace(TRAINED, rounds=10, stack=(), eps={"robust at .3": 0.3, "robust at 32/255": 32 / 255})
FASHION = {"name": "fashion-mnist", "train": 10_000, "test": 2_000}

CASES: dict[str, Case] = {
    "MNIST, undefended": UNDEFENDED,
    "Fashion-MNIST, undefended": replace(UNDEFENDED, dataset=FASHION),
    CENTRAL: replace(TRAINED, clients=1),
    "IID": TRAINED,
    "Dirichlet .1": replace(TRAINED, partition=APART),
}


def fedavg_at_mnist(jobs: int | None = None) -> Figures:
    """`measured` of the cases of the reproduction, in as many processes as asked, by default two."""
    return measured(CASES, jobs=2 if jobs is None else jobs)


def measured(cases: Mapping[str, Case], *, seed: int = 0, jobs: int = 1) -> Figures:
    """Train every case on one thread and attack its model.

    Args:
        cases: by label; all that train against something share their test images, and one is `CENTRAL`.
        seed: of the data's dealing, of the first model and of all draws.
        jobs: processes that share the cases; up to 1 none is started. What they find does not depend on it.

    Returns:
        By ``case | figure``: ``accuracy`` on test images and the accuracy under PGD-40 (steps of .01, a random start)
        by the names of its sizes, shares with 95 % intervals; ``masking``, how many checks of the masking battery
        failed, where something is trained against (nothing if too few images are read rightly); and of a case that is
        compared, ``case - central | figure``, the mean paired difference over the same images with its interval.
    """
    found: Figures = {}
    trained: dict[str, dict[str, Reads]] = {}
    for (label, case), (right, failed) in zip(cases.items(), _each(list(cases.values()), seed, jobs), strict=True):
        found |= {f"{label} | {name}": _share(one) for name, one in right.items()}
        if case.stack:
            trained[label] = right
        if failed is not None:
            found[f"{label} | masking"] = failed
    for label, right in trained.items():
        if label != CENTRAL:
            found |= {
                f"{label} - {CENTRAL} | {name}": _difference(one, trained[CENTRAL][name], seed)
                for name, one in right.items()
            }
    return found


def _each(cases: Sequence[Case], seed: int, jobs: int) -> list[Outcome]:
    if jobs <= 1:
        return [outcome(case, seed) for case in cases]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(outcome, cases, [seed] * len(cases)))


def outcome(case: Case, seed: int) -> Outcome:
    """Whether each test image is read rightly, as it is and under attack; and failed checks for masked gradients."""
    with one_thread(torch.device("cpu")):
        return _trained(case, seed)


def _trained(case: Case, seed: int) -> Outcome:
    setup = Builder(config_from(case.configuration()), device="cpu").setup(seed)
    result = Federation(setup, tuple(rebuild("defenses", spec) for spec in case.stack)).run()
    net, test = setup.model.instance(result.released).eval(), setup.split.test
    natural = _right(net, test.x, test)
    right = {"accuracy": natural.numpy()}
    for name, eps in case.eps.items():
        drawn = generator("reproduction", "attack", seed)
        attacked = pgd(net, test.x, test.y, eps=eps, step=0.01, steps=40, generator=drawn)
        right[name] = (natural & _right(net, attacked, test)).numpy()
    if not case.stack:
        return right, None
    drawn = generator("reproduction", "masking", seed)
    checks = battery(net, test.x, test.y, bounds=setup.info.bounds or (0.0, 1.0), generator=drawn)
    return right, float(len(checks.failed)) if checks.checks else None


def _right(net: nn.Module, x: Tensor, test: Examples) -> Tensor:
    with torch.no_grad():
        read: Tensor = net(x).argmax(-1)
    return read == test.y


def _share(right: Reads) -> tuple[float, float, float]:
    low, high = wilson(int(right.sum()), len(right))
    return float(right.mean()), low, high


def _difference(mine: Reads, others: Reads, seed: int) -> tuple[float, float, float]:
    gained = mine.astype(np.float64) - others
    low, high = bootstrap_mean(gained, generator=numpy_generator("reproduction", "difference", seed))
    return float(gained.mean()), low, high
