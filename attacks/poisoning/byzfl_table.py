"""What `fedsec repro byzfl-mnist` measures: ByzFL's table of worst-case accuracy on MNIST, by its own definition."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fedsec.audit.api import Audit
from fedsec.config import config_from

ATTACKS: dict[str, dict[str, Any]] = {
    "sign flip": {"name": "ipm", "epsilon": 1.0, "omniscient": True},
    "Opt-IPM": {"name": "line-search", "direction": "mean", "omniscient": True},
    "Opt-ALIE": {"name": "line-search", "direction": "std", "omniscient": True},
}
"""Its sign flip is the honest mean reversed, as an IPM of strength 1 is."""
STEP = 0.1
CLIP = 2.0
"""Bound of ByzFL's clipping. It clips momenta of gradients, and an update is a gradient times the learning rate."""
NU, STEPS = 0.1, 3
"""ByzFL's geometric median: the smallest distance that counts, in gradients, and its steps from the origin."""
ROUNDS, EVERY, LAST = 800, 50, 5
"""Steps, steps between evaluations, and evaluations at the end whose mean is reported."""


def rules(f: int) -> dict[str, dict[str, Any]]:
    """The rules of the table by their names, with ByzFL's parameters."""
    median = {"name": "geometric-median", "nu": NU * STEP, "iterations": STEPS, "start": "origin"}
    return {"trimmed mean": {"name": "trimmed-mean", "f": f}, "geometric median": median}


def configuration(*, gamma: float, f: int, seed: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """One audit: both rules against the three attacks.

    Args:
        gamma: share of the data that is dealt at random; the rest is sorted by label.
        f: malicious identities beside the 10 clients, who hold no data; the defense assumes as many.
        seed: of the federation.
        rounds: of one local step.
    """
    momentum = {"name": "client-momentum", "start": "zero"}
    before = [momentum, {"name": "clip", "c": CLIP * STEP, "enforced_by": "server"}, {"name": "nnm", "f": f}]
    return {
        "version": 1,
        "name": "byzfl-mnist",
        "federation": {
            "dataset": {"name": "mnist", "train": 48000},
            "partition": {"name": "similarity", "gamma": gamma},
            "model": "cnn-mnist",
            "algorithm": {"name": "fedavg", "weighting": "uniform"},
            "clients": 10,
            "rounds": rounds,
            "evaluate_every": min(EVERY, rounds),
            "local": {"batch_size": 25, "max_steps": 1, "learning_rate": STEP, "weight_decay": 1e-4},
        },
        "attacks": [
            {"name": "sybil", "label": label, "identities": f, "fraction": 0.0, "carries": dict(carried)}
            for label, carried in ATTACKS.items()
        ],
        "defenses": ["none", *([{"label": label, "stack": [*before, rule]} for label, rule in rules(f).items()])],
        "seeds": [seed],
        "device": "cpu",
    }


def worst_best(curves: Mapping[str, list[list[float]]]) -> float:
    """The table's entry: the mean curve over the seeds, its best round, and the worst attack.

    It picks the round on test data, so it flatters; `worst_last` does not.

    Args:
        curves: test accuracy per evaluated round, of each seed, by attack.
    """
    return min(max(_mean(points) for points in zip(*seeds, strict=True)) for seeds in curves.values())


def worst_last(curves: Mapping[str, list[list[float]]], *, last: int = LAST) -> float:
    """The mean of the last evaluated rounds and the seeds, under the worst attack; arguments as for `worst_best`."""
    return min(_mean([_mean(seed[-last:]) for seed in seeds]) for seeds in curves.values())


def table(
    output: Path, *, gammas: tuple[float, ...], fs: tuple[int, ...], seeds: tuple[int, ...], jobs: int | None = None,
    progress: str = "auto", rounds: int = ROUNDS,
) -> dict[str, float]:  # fmt: skip
    """Cells of the table; audits that are finished are not run again.

    Returns:
        For each cell ``gamma=G f=F | RULE | best`` and ``| last``, the same of each attack alone as ``| ATTACK best``
        and ``| ATTACK last``, and of the federation without an attack as ``| nobody best`` and ``| nobody last``.
    """
    found: dict[str, float] = {}
    for gamma in gammas:
        for f in fs:
            curves: dict[str, dict[str, list[list[float]]]] = {}
            for seed in seeds:
                audit = Audit(config_from(configuration(gamma=gamma, f=f, seed=seed, rounds=rounds)))
                only = [f"stack={label}" for label in rules(f)]
                folder = output / f"gamma-{gamma:g}-f-{f}-seed-{seed}"
                document = audit.run(folder, jobs=jobs, only=only, progress=progress).document
                _collect(document, curves)
            for rule, by_attack in curves.items():
                place = f"gamma={gamma:g} f={f} | {rule}"
                honest = {"nobody": by_attack.pop("nobody")}
                found[f"{place} | best"] = worst_best(by_attack)
                found[f"{place} | last"] = worst_last(by_attack)
                for attack, own in (by_attack | honest).items():
                    found[f"{place} | {attack} best"] = worst_best({attack: own})
                    found[f"{place} | {attack} last"] = worst_last({attack: own})
    return found


def byzfl_mnist(output: Path, *, jobs: int | None = None, progress: str = "auto") -> dict[str, float]:
    """The corners of the table: IID and fully sorted data, one and four malicious identities; see `table`.

    Three seeds, as ByzFL has, where federations break and seeds differ; one elsewhere.
    """
    run = partial(table, output, jobs=jobs, progress=progress)
    learns = run(gammas=(1.0,), fs=(1, 4), seeds=(0,)) | run(gammas=(0.0,), fs=(1,), seeds=(0,))
    return learns | run(gammas=(0.0,), fs=(4,), seeds=(0, 1, 2))


def _collect(document: Mapping[str, Any], curves: dict[str, dict[str, list[list[float]]]]) -> None:
    """Accuracy per evaluated round from the findings of one seed."""
    for finding in document["findings"]:
        if finding["status"] != "measured":
            continue
        own = curves.setdefault(finding["stack"], {"nobody": []})
        shown = finding["exhibits"]["curves"]
        own.setdefault(finding["attack"], []).append(shown["attacked"]["y"])
        if finding["attack"] == next(iter(ATTACKS)):
            own["nobody"].append(shown["honest"]["y"])


def _mean(values: Any) -> float:
    kept = list(values)
    return float(sum(kept) / len(kept))
