"""What ``fedsec repro foolsgold-mnist`` measures: robust rules and FoolsGold against Sybils that flip one digit."""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from fedsec.data.cache import data_root
from fedsec.data.examples import Dataset
from fedsec.federation.engines import one_thread
from fedsec.registry import get
from fedsec.round_geometry import RoundGeometry

from .foolsgold import foolsgold_coefficients
from .one_digit_clients import Cell, Experiment, Flip, Rule, accuracy, attack_rate
from .rules import coordinate_median, mean, multi_krum, trimmed_mean

Figures = dict[str, float | tuple[float, float, float]]

FLIP: Flip = (1, 7)
SYBILS = (0, 1, 2, 5, 9)
FIVE = ((1, 7), (4, 9), (0, 8), (3, 8), (6, 8))
"""The five goals of A-5x5."""


def _alone(rule: Callable[[Tensor], Tensor]) -> Rule:
    return lambda updates, sums: rule(updates)


def _foolsgold(updates: Tensor, sums: Tensor | None, *, pardoning: bool = True, logit: bool = True) -> Tensor:
    """The authors' weighted sum; similarity of the sums so far, or of the round if there is no memory."""
    round_ = RoundGeometry(updates if sums is None else sums)
    weights = foolsgold_coefficients(round_, pardoning=pardoning, logit=logit, undivided=True)
    return weights.to(updates) @ updates


RULES: dict[str, Rule] = {
    "mean": _alone(mean),
    "median": _alone(coordinate_median),
    "trimmed mean 0.1": _alone(lambda u: trimmed_mean(u, f=int(0.1 * len(u)))),
    "trimmed mean 0.2": _alone(lambda u: trimmed_mean(u, f=int(0.2 * len(u)))),
    "multi-krum": _alone(lambda u: multi_krum(u, f=1, m=len(u) - 1)),
    "foolsgold": _foolsgold,
}
"""As the authors call them: a share of the rows cut at each end, and a Multi-Krum that always drops one row."""

MODULES: dict[str, tuple[Rule, bool]] = {
    "foolsgold": (_foolsgold, True),
    "no memory": (_foolsgold, False),
    "no pardoning": (partial(_foolsgold, pardoning=False), True),
    "no logit": (partial(_foolsgold, logit=False), True),
}
"""FoolsGold without one of its parts; and whether it remembers."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Federations that are trained together, and what is read from them.

    Attributes:
        part: of the reproduction.
        seed: of the draws.
        rounds: of training.
        batch: examples of a step.
        sybils: in all.
    """

    part: str
    seed: int
    rounds: int
    batch: int = 50
    sybils: int = 9

    def cells(self) -> list[Cell]:
        """The federations."""
        if self.part in {"table", "one"}:
            counts = SYBILS if self.part == "table" else (1,)
            chosen = tuple(RULES) if self.part == "table" else ("mean", "foolsgold")
            return [
                Cell(name=f"{n} | {k}", rule=RULES[n], sybils=k, remembers=n == "foolsgold")
                for n in chosen
                for k in counts
            ]
        names = {"modules": tuple(MODULES), "A-90": ("foolsgold", "no logit")}.get(self.part, ("foolsgold",))
        return [
            Cell(name=f"{self.part} | {n}", rule=MODULES[n][0], sybils=self.sybils, remembers=MODULES[n][1])
            for n in names
        ]

    def run(self, data: Dataset) -> dict[str, float]:
        """Train and measure: attack rate and accuracy of each federation."""
        goals = FIVE if self.part == "A-5x5" else (FLIP,)
        flips = [goals[s * len(goals) // self.sybils] for s in range(self.sybils)]
        experiment = Experiment(rounds=self.rounds, batch=self.batch)
        found = {}
        for name, model in experiment.train(self.cells(), flips, data.train, seed=self.seed).items():
            found[f"{name} | attack rate"] = statistics.fmean(attack_rate(model, data.test, goal) for goal in goals)
            found[f"{name} | accuracy"] = accuracy(model, data.test)
        return found


TASKS = (
    # the longest first, so that two processes end at about the same time
    *(Task(part="table", seed=seed, rounds=3000) for seed in range(5)),
    Task(part="A-99", seed=0, rounds=100, sybils=990),
    Task(part="A-90", seed=0, rounds=600, batch=1, sybils=90),
    Task(part="A-5x5", seed=0, rounds=3000, sybils=25),
    *(Task(part="one", seed=seed, rounds=3000, sybils=1) for seed in range(5, 20)),
    *(Task(part="modules", seed=seed, rounds=1000, batch=1, sybils=5) for seed in range(5)),
)
"""Everything. One attacker is a draw that varies from run to run, so there are 20 seeds of it."""


def foolsgold_mnist(tasks: Sequence[Task] = TASKS, *, dataset: Mapping[str, Any] | None = None) -> Figures:
    """The table of attack rate and accuracy by rule and number of Sybils, the canonical attacks, and ablations.

    Args:
        tasks: what to run.
        dataset: instead of MNIST; name and parameters.

    Returns:
        ``RULE | SYBILS | attack rate``, ``... | accuracy`` and so on; the mean over seeds with its 95 % Student
        interval, where there are several.
    """
    spec = dict(dataset or {"name": "mnist"})
    workers = min(len(tasks), os.cpu_count() or 1)
    if workers > 1 and not multiprocessing.current_process().daemon:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare, initargs=(spec,)) as pool:
            results = list(pool.map(_run, tasks))
    else:
        _prepare(spec)
        results = [_run(task) for task in tasks]
    runs: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.items():
            runs.setdefault(name, []).append(value)
    return {name: _mean(values) for name, values in runs.items()}


_loaded: list[Dataset] = []


def _prepare(spec: Mapping[str, Any]) -> None:
    """Load the data set once per process."""
    parameters = {key: value for key, value in spec.items() if key != "name"}
    _loaded[:] = [get("datasets", spec["name"])(**parameters).load(data_root())]


def _run(task: Task) -> dict[str, float]:
    with one_thread(torch.device("cpu")):
        return task.run(_loaded[0])


def _mean(values: Sequence[float]) -> float | tuple[float, float, float]:
    middle = statistics.fmean(values)
    if len(values) < 2:
        return middle
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return middle, middle - half, middle + half
