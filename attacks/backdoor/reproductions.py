"""What `fedsec repro` measures of backdoors: DBA, model replacement and Neurotoxin, undefended and defended."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from typing import Any

from fedsec.audit.build import Builder
from fedsec.audit.challenge import public_facts
from fedsec.config import config_from
from fedsec.federation.engines import one_thread
from fedsec.federation.evaluate import hits
from fedsec.federation.result import TrainingResult
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.judges.backdoor import BackdoorJudge
from fedsec.judges.base import Outcome
from fedsec.parameters import rebuild
from fedsec.protocol.parties import Adversary
from fedsec.protocol.stage import Defense

from .data import BadNets, DistributedBackdoor
from .model import ModelBackdoor, ModelReplacement
from .neurotoxin import Neurotoxin

Figures = dict[str, float]

SEEDS = (0, 1)

FEDERATION: dict[str, Any] = {
    "dataset": {"name": "mnist", "train": 40_000, "auxiliary": 100, "test": 2000},
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "model": {"name": "convnet", "widths": [8, 16]},
    "algorithm": {"name": "fedavg", "weighting": "uniform"},
    "clients": 100,
    "clients_per_round": 10,
    "rounds": 30,
    "evaluate_every": 2,
    "local": {"batch_size": 64, "learning_rate": 0.1},
}
"""DBA's setting for MNIST, with two thirds of the examples and a smaller network."""

CLEAN_ROUNDS = 80
"""Rounds of plain averaging that give the clean model which the attacked federation resumes."""
RATE = 0.1
"""The server's learning rate from there on."""

_SHOTS: dict[str, Any] = {
    "fraction": 0.04,
    "first_round": 2,
    "shot_every": 2,
    "sure": 1,
    "epochs": 10,
    "learning_rate": 0.05,
}
"""Four attackers, one shot each in rounds 2, 4, 6 and 8 after the clean model: DBA's 12, 14, 16, 18 after 10."""

ATTACKS: dict[str, ModelBackdoor] = {
    "dba": ModelReplacement(plants=DistributedBackdoor(), **_SHOTS),
    "centralised": ModelReplacement(plants=DistributedBackdoor(split=False), **_SHOTS),
    "model-replacement": ModelReplacement(
        plants=BadNets(target=2, ratio=0.3125, shape="patch"), **{**_SHOTS, "fraction": 0.01}
    ),
}
"""DBA; all four bars at every attacker; and a single shot of a single attacker (`BadNets`)."""

COMPARED = "centralised"
"""Stands beside DBA undefended only, as in the paper."""

STACKS: dict[str, tuple[dict[str, Any], ...]] = {
    "none": (),
    "clip": ({"name": "clip", "c": 1.0, "enforced_by": "server"},),
    "flame": ({"name": "flame"},),
    "fltrust": ({"name": "fltrust", "root_size": 100},),
}

LASTING: dict[str, Any] = {
    "fraction": 0.02,
    "first_round": 1,
    "last_round": 15,
    "sure": 1,
    "epochs": 5,
    "boost": 10.0,
}
"""Fifteen rounds with one attacker or two, whose updates are cut to a bound."""
LASTING_ROUNDS = 50
BOUND = 3.0
"""L2 norm of each malicious update: the budget that Neurotoxin and the plain backdoor share."""
TOPS = (0.0, 0.05)
"""Shares of coordinates that are left alone; 0 is the plain backdoor."""


def dba_mnist(**smaller: Any) -> Figures:
    """`dba` on MNIST."""
    return dba("mnist", **smaller)


def dba_fashion_mnist(**smaller: Any) -> Figures:
    """`dba` on Fashion-MNIST."""
    return dba("fashion-mnist", **smaller)


def dba(name: str, *, seeds: Sequence[int] = SEEDS, changes: Mapping[str, Any] | None = None) -> Figures:
    """Attack success and clean accuracy of DBA and model replacement, undefended and defended, and durability.

    Args:
        name: of the dataset.
        seeds: figures are means over them.
        changes: of the federation's configuration, for smaller runs.

    Returns:
        By ``attack | stack | metric`` the metrics of the judge ``backdoor`` (the floor of the attack success as
        ``floor``); ``clean accuracy``; ``neurotoxin top=0.05 | durability`` and alike.
    """
    jobs = [(name, seed, dict(changes or {})) for seed in seeds]
    cores = min(os.cpu_count() or 1, len(jobs))
    if cores > 1 and not multiprocessing.current_process().daemon:
        with multiprocessing.get_context("spawn").Pool(cores) as pool:
            found = pool.starmap(measured, jobs, chunksize=1)
    else:
        found = [measured(*job) for job in jobs]
    return {key: sum(values) / len(values) for key, values in _collected(found).items()}


def measured(name: str, seed: int, changes: Mapping[str, Any]) -> Figures:
    """The figures of one dataset and one seed."""
    federation = {**FEDERATION, **changes}
    federation["dataset"] = {**federation["dataset"], "name": name}
    built = Builder(config_from({"version": 1, "federation": federation, "attacks": []}), device="cpu").setup(seed)
    with one_thread(built.device):
        clean = Federation(dataclasses.replace(built, rounds=CLEAN_ROUNDS, evaluate_every=CLEAN_ROUNDS)).run()
        resumed = dataclasses.replace(built, initial=clean.released)
        found = {"clean accuracy": clean.accuracy[-1]}
        slow = dataclasses.replace(resumed, server=ServerStep(learning_rate=RATE))
        for label, specs in STACKS.items():
            stack = tuple(rebuild("defenses", spec) for spec in specs)
            honest = Federation(slow, stack).run()
            for attack, adversary in ATTACKS.items():
                if attack == COMPARED and stack:
                    continue
                judged = _judged(slow, stack, adversary, honest)
                found |= {f"{attack} | {label} | {metric}": value for metric, value in judged.items()}
        long = dataclasses.replace(resumed, rounds=LASTING_ROUNDS)
        honest = Federation(long).run()
        for top in TOPS:
            lasting = Neurotoxin(plants=DistributedBackdoor(split=False), top=top, bound=BOUND, **LASTING)
            judged = _judged(long, (), lasting, honest)
            found |= {f"neurotoxin top={top:g} | {metric}": value for metric, value in judged.items()}
    return found


def _judged(
    setup: FederationSetup, stack: tuple[Defense, ...], adversary: Adversary, honest: TrainingResult
) -> Figures:
    """What the judge of backdoors says of one attack on one stack."""
    facts = public_facts(setup, stack, adversary)
    result = Federation(setup, stack, adversary=adversary, facts=facts).run()
    asked = hits(setup.model, honest.released, adversary.probe(setup.split.test, setup.info))
    judgement = BackdoorJudge().compare(
        dataclasses.replace(_outcome(honest), probe=asked),
        _outcome(result),
        setup.split.test,
        setup.info,
        adversary.goal(),
    )
    found = {}
    for one in judgement.measurements:
        if one.statistic == "mean":
            found[one.name] = float(one.units.double().mean())
        if one.headline and one.floor_units is not None:
            found["floor"] = float(one.floor_units.double().mean())
    return found


def _outcome(result: TrainingResult) -> Outcome:
    return Outcome(
        predictions=result.predictions,
        accuracy=result.accuracy,
        rounds=result.rounds,
        detected=result.detected,
        present=result.present,
        probe=result.probe,
        probes=result.probes,
        watch=result.watch,
    )


def _collected(found: Sequence[Figures]) -> dict[str, list[float]]:
    collected: dict[str, list[float]] = {}
    for figures in found:
        for key, value in figures.items():
            collected.setdefault(key, []).append(value)
    return collected
