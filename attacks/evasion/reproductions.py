"""What `fedsec repro` measures of the cheap kinds of adversarial training: YOPO and Free beside PGD and beside none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedsec.audit.build import Builder
from fedsec.config import config_from
from fedsec.data.examples import Examples
from fedsec.federation.engines import one_thread
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup
from fedsec.judges.masking import battery
from fedsec.parameters import rebuild
from fedsec.randomness import generator, numpy_generator
from fedsec.statistics.bootstrap import bootstrap_mean
from fedsec.statistics.intervals import wilson

from .gradient_ascent import Passes, pgd

Figures = dict[str, float | tuple[float, float, float]]

NATURAL = "natural"
"""Label of training on unperturbed inputs, against which costs are counted."""
PGD = "pgd-at"
"""Label of the training that the cheap one shall replace."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Central training, by one client, in several ways; and one attack on what each of them gives.

    Attributes:
        federation: as in a configuration; a round is an epoch, or as many as the local training has.
        trainings: defenses by label; `NATURAL` and `PGD` are among them.
        eps: size of the attack, ``linf``, in units of the inputs.
        step: length of its steps.
        steps: their number, from a random start.
    """

    federation: Mapping[str, Any]
    trainings: Mapping[str, tuple[Mapping[str, Any], ...]]
    eps: float
    step: float
    steps: int


YOPO_MNIST = Study(
    federation={
        "dataset": {"name": "mnist", "train": 10_000, "test": 1_000},
        "model": "strided-cnn",
        "clients": 1,
        "rounds": 20,
        "evaluate_every": 20,
        "local": {"batch_size": 64, "optimizer": "momentum", "learning_rate": 0.05},
    },
    trainings={
        NATURAL: (),
        PGD: ({"name": "pgd-at", "eps": 0.3, "steps": 10, "step": 0.075, "ramp": 8},),
        "yopo": ({"name": "yopo", "eps": 0.3, "passes": 5, "steps": 10, "sigma": 0.01, "ramp": 8},),
    },
    eps=0.3,
    step=0.01,
    steps=40,
)
"""YOPO-5-10 as its authors train on MNIST, on a sixth of the images, for half the epochs, on a smaller network."""

REPLAYS = 4

FREE_CIFAR = Study(
    federation={
        "dataset": {"name": "cifar10", "variant": "jpeg", "test": 2_000},
        "model": "strided-cnn",
        "clients": 1,
        "rounds": 6,
        "evaluate_every": 6,
        "local": {
            "epochs": REPLAYS,
            "batch_size": 64,
            "optimizer": "adam",
            "learning_rate": 0.001,
            "schedule": "cosine",
        },
    },
    trainings={
        NATURAL: (),
        PGD: ({"name": "pgd-at", "eps": 8 / 255, "steps": 7, "step": 2 / 255},),
        "free": ({"name": "free-at", "eps": 8 / 255, "replays": REPLAYS},),
    },
    eps=8 / 255,
    step=2 / 255,
    steps=20,
)
"""Free-4 on a subset of CIFAR-10: all take as many steps in a round; Free reads each image once, others four times."""


def yopo_mnist() -> Figures:
    """`measured` on MNIST: YOPO-5-10 beside PGD-10 and natural training."""
    return measured(YOPO_MNIST)


def free_cifar() -> Figures:
    """`measured` on CIFAR-10's subset: Free beside PGD-7 and natural training."""
    return measured(FREE_CIFAR)


def measured(study: Study, *, seed: int = 0) -> Figures:
    """Train in every way, one after the other on one thread, and attack what comes out.

    Args:
        study: the trainings and the attack.
        seed: of the data's dealing, of the first model and of all draws.

    Returns:
        By ``training | figure``: ``accuracy`` on test images, and ``robust`` accuracy under the attack (shares with
        their 95 % intervals); ``seconds`` of processor time, ``cost`` as a multiple of the natural training's, and
        ``forwards`` and ``backwards`` per example and local step, of whole passes; ``masking``, how many checks of
        the masking battery failed, of trainings that perturb (nothing if too few images are read rightly).
        ``training - pgd-at | robust`` is the mean difference over the same images, with its interval, and
        ``pgd-at / training | cost`` how many times as costly PGD is.
    """
    config = config_from({"version": 1, "federation": dict(study.federation), "attacks": []})
    setup = Builder(config, device="cpu").setup(seed)
    found: Figures = {}
    robust: dict[str, Tensor] = {}
    with one_thread(setup.device):
        for label, specs in study.trainings.items():
            net, spent, seconds = _trained(setup, specs)
            found |= {f"{label} | {name}": value for name, value in spent.items()}
            found[f"{label} | seconds"] = seconds
            clean, robust[label] = _right(net, setup.split.test, study, seed)
            found[f"{label} | accuracy"] = _share(clean)
            found[f"{label} | robust"] = _share(robust[label])
            if specs:
                drawn = generator("reproduction", "masking", seed)
                test = setup.split.test
                checks = battery(net, test.x, test.y, bounds=setup.info.bounds or (0.0, 1.0), generator=drawn)
                if checks.checks:
                    found[f"{label} | masking"] = float(len(checks.failed))
    return found | _compared(found, robust, seed)


def _trained(setup: FederationSetup, specs: tuple[Mapping[str, Any], ...]) -> tuple[nn.Module, dict[str, float], float]:
    """The network, passes per example and local step, and seconds of processor time."""
    federation = Federation(setup, tuple(rebuild("defenses", spec) for spec in specs))
    classes = len(setup.info.classes)
    with counted(classes) as spent:
        begin = time.process_time()
        result = federation.run()
        seconds = time.process_time() - begin
    steps = setup.rounds * setup.local.epochs * len(setup.split.clients)
    each = {"forwards": spent.forwards / steps, "backwards": spent.backwards / steps}
    return setup.model.instance(result.released).eval(), each, seconds


@contextmanager
def counted(classes: int) -> Iterator[Passes]:
    """Within, whole passes that could be differentiated are counted, as those through a last layer of this width."""
    spent = Passes()

    def back(gradient: Tensor) -> None:
        spent.backwards += len(gradient)

    def seen(part: nn.Module, inputs: object, output: object) -> None:
        last = isinstance(part, nn.Linear) and part.out_features == classes
        if last and isinstance(output, Tensor) and output.requires_grad:
            spent.forwards += len(output)
            output.register_hook(back)  # type: ignore[no-untyped-call]

    handle = nn.modules.module.register_module_forward_hook(seen)
    try:
        yield spent
    finally:
        handle.remove()


def _right(net: nn.Module, test: Examples, study: Study, seed: int) -> tuple[Tensor, Tensor]:
    """Whether each test image is read rightly, as it is and under the attack."""
    drawn = generator("reproduction", "attack", seed)
    attacked = pgd(net, test.x, test.y, eps=study.eps, step=study.step, steps=study.steps, generator=drawn)
    with torch.no_grad():
        clean, under = (net(x).argmax(-1) == test.y for x in (test.x, attacked))
    return clean, clean & under


def _share(right: Tensor) -> tuple[float, float, float]:
    low, high = wilson(int(right.sum()), len(right))
    return float(right.double().mean()), low, high


def _compared(found: Figures, robust: Mapping[str, Tensor], seed: int) -> Figures:
    """Costs against natural training's, and everything against PGD."""
    seconds = {label: float(found[f"{label} | seconds"]) for label in robust}  # type: ignore[arg-type]
    compared: Figures = {}
    for label, right in robust.items():
        compared[f"{label} | cost"] = seconds[label] / seconds[NATURAL]
        if label in (NATURAL, PGD):
            continue
        gained = (right.double() - robust[PGD].double()).numpy()
        low, high = bootstrap_mean(gained, generator=numpy_generator("reproduction", "difference", seed))
        compared[f"{label} - {PGD} | robust"] = (float(gained.mean()), low, high)
        compared[f"{PGD} / {label} | cost"] = seconds[PGD] / seconds[label]
    return compared
