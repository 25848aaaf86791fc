"""What ``fedsec repro opacus-mnist`` and ``fedsec repro dp-fedavg-mnist`` measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedsec.audit.build import Builder
from fedsec.config import config_from
from fedsec.data.examples import Examples
from fedsec.federation.rounds import Federation
from fedsec.parameters import rebuild
from fedsec.protocol.stage import Defense

from .client_level import ClientLevelDP
from .sample_level import SampleLevelDP

Figures = dict[str, float | tuple[float, float, float]]

CELLS: dict[str, tuple[int, int, float]] = {
    "N=1000 q=0.1 z=0": (1000, 100, 0.0),
    "N=1000 q=0.1 z=1": (1000, 100, 1.0),
    "N=1000 q=0.1 z=2": (1000, 100, 2.0),
    "N=100 q=0.2 z=0": (100, 20, 0.0),
    "N=100 q=0.2 z=1": (100, 20, 1.0),
}
"""Clients, expected cohort and noise multiplier of each federation of the table."""


def trained(
    federation: Mapping[str, Any], stack: tuple[Defense, ...], *, seed: int, standardise: bool = False
) -> tuple[float, dict[str, Any]]:
    """Accuracy on the test set of what a federation releases, and what its last defense claims.

    Args:
        federation: the section of a configuration.
        stack: of defenses.
        seed: of the federation.
        standardise: subtract MNIST's mean from all inputs and divide by its deviation.
    """
    raw = {
        "version": 1,
        "name": "privacy",
        "federation": dict(federation),
        "attacks": [],
        "seeds": [seed],
        "device": "cpu",
    }
    setup = Builder(config_from(raw)).setup(seed)
    if standardise:
        clients, test = _standardised(setup.split.clients), _standardised(setup.split.test)
        setup = replace(setup, split=replace(setup.split, clients=clients, test=test))
    result = Federation(setup, stack).run()
    claims = stack[-1].claims(setup.setting(stack)) if stack else {}
    return result.accuracy[-1], dict(claims)


def opacus_mnist(*, seeds: int = 1) -> Figures:
    """One client with all of MNIST, so that a round is an epoch of central DP-SGD, as Opacus' example trains.

    Args:
        seeds: trainings whose mean is reported; with several, the interval is two standard errors.
    """
    federation = {
        "dataset": "mnist",
        "model": "opacus-cnn",
        "clients": 1,
        "rounds": 15,
        "evaluate_every": 15,
        "local": {"batch_size": 240, "learning_rate": 0.25},
    }
    defense = SampleLevelDP(clip_norm=1.5, noise_multiplier=1.3, delta=1e-5)
    found = [trained(federation, (defense,), seed=seed) for seed in range(seeds)]
    claims = found[0][1]
    return {
        "accuracy": _mean([accuracy for accuracy, _ in found]),
        "epsilon rdp": float(claims["epsilon_rdp"]),
        "epsilon prv": float(claims["epsilon"]),
        "steps": float(claims["steps"]),
    }


def dp_fedavg_mnist(*, seeds: int = 3) -> Figures:
    """DP-FedAvg of a network of 32 hidden units, at five combinations of clients and noise.

    Args:
        seeds: see `opacus_mnist`.
    """
    figures: Figures = {}
    for name, (clients, cohort, noise) in CELLS.items():
        federation = {
            "dataset": "mnist",
            "model": {"name": "mlp", "hidden": [32]},
            "algorithm": {"name": "fedavg", "weighting": "uniform"},
            "clients": clients,
            "clients_per_round": cohort,
            "sampling": "poisson",
            "rounds": 100,
            "evaluate_every": 100,
            "local": {"batch_size": None, "epochs": 5, "learning_rate": LEARNING_RATE},
        }
        clip: Any = rebuild("defenses", {"name": "clip", "c": CLIP})
        delta = 1 / (10 * clients)
        noisy = ClientLevelDP(clip_norm=CLIP, noise_multiplier=noise or None, delta=delta)
        stack = (noisy,) if noise else (clip,)
        found = [trained(federation, stack, seed=seed, standardise=True) for seed in range(seeds)]
        figures[f"{name} | accuracy"] = _mean([accuracy for accuracy, _ in found])
        if noise:
            figures[f"{name} | epsilon"] = float(found[0][1]["epsilon"])
    return figures


CLIP = 0.5
LEARNING_RATE = 0.1
"""Of the clients. The table names none; with this one the four other cells agree with it to half a point."""


def _standardised(examples: Examples) -> Examples:
    return replace(examples, x=(examples.x - 0.1307) / 0.3081)


def _mean(values: list[float]) -> float | tuple[float, float, float]:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    return mean, mean - 2 * spread, mean + 2 * spread
