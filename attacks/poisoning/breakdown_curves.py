"""What `fedsec repro fashion-mnist-curves` measures: accuracy over the share of malicious clients, rule by rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsec.audit.api import Audit
from fedsec.config import config_from

CLIENTS = 20
SHARES = (0.1, 0.2, 0.3, 0.4)
LAST = 5
"""Evaluated rounds at the end whose mean accuracy is reported; the judge of availability takes as many."""

Value = tuple[float, float, float]


def attacks(share: float) -> list[dict[str, Any]]:
    """The four attacks with that share of the clients."""
    return [
        {"name": "alie", "fraction": share, "omniscient": True},
        {"name": "sign-flip", "fraction": share},
        {"name": "min-max", "fraction": share, "omniscient": True},
        {"name": "label-flip", "fraction": share},
    ]


def rules(f: int) -> dict[str, dict[str, Any]]:
    """The rules by the names of the figures; `mean` is the federation without a defense."""
    return {
        "median": {"name": "coordinate-median"},
        "trimmed mean": {"name": "trimmed-mean", "f": f},
        "multi-krum": {"name": "multi-krum", "f": f},
        "geometric median": {"name": "geometric-median"},
    }


def configuration(share: float, *, seeds: int, rounds: int = 400) -> dict[str, Any]:
    """One audit: every rule against every attack, at one share of malicious clients, which the rules are told.

    Args:
        share: of the clients.
        seeds: federations.
        rounds: of one local step on a batch of 8: little else than noise, in which attacks can hide.
    """
    f = round(share * CLIENTS)
    return {
        "version": 1,
        "name": "fashion-mnist-curves",
        "federation": {
            "dataset": {"name": "fashion-mnist", "train": 12000, "test": 2000},
            "partition": "shuffle",
            "model": {"name": "mlp", "hidden": [64]},
            "algorithm": {"name": "fedavg", "weighting": "uniform"},
            "clients": CLIENTS,
            "rounds": rounds,
            "evaluate_every": max(rounds // 20, 1),
            "local": {"batch_size": 8, "max_steps": 1, "learning_rate": 0.1},
        },
        "attacks": attacks(share),
        "defenses": ["none", *({"label": label, "stack": [rule]} for label, rule in rules(f).items())],
        "seeds": seeds,
        "device": "cpu",
    }


def curves(
    output: Path, *, shares: tuple[float, ...], seeds: int, jobs: int | None = None, progress: str = "auto", **how: int
) -> dict[str, Value]:
    """Mean accuracy of the last evaluated rounds.

    Args:
        output: one store for all audits, so that what does not depend on the share is trained once.
        shares: of malicious clients.
        seeds: federations.
        jobs: worker processes.
        progress: as for ``fedsec audit``.
        how: ``rounds``, of `configuration`.

    Returns:
        ``RULE | ATTACK | SHARE``; ``RULE | worst | SHARE`` for the attack that leaves least; ``RULE | nobody | SHARE``
        with the ``f`` that the rule assumes for that share.
    """
    found: dict[str, Value] = {}
    for share in shares:
        raw = configuration(share, seeds=seeds, **how)
        document = Audit(config_from(raw)).run(output, jobs=jobs, progress=progress).document
        found |= read(document, share)
    return found


def read(document: Mapping[str, Any], share: float) -> dict[str, Value]:
    """The figures of one audit; see `curves`."""
    found: dict[str, Value] = {}
    for utility in document["utilities"]:
        late = utility["curve"]["y"][-LAST:]
        found[f"{_rule(utility['stack'])} | nobody | {share:g}"] = (sum(late) / len(late),) * 3
    worst: dict[str, Value] = {}
    for rule, attack, accuracy in _accuracies(document):
        found[f"{rule} | {attack} | {share:g}"] = accuracy
        worst[rule] = min(worst.get(rule, accuracy), accuracy)
    return found | {f"{rule} | worst | {share:g}": accuracy for rule, accuracy in worst.items()}


def fashion_mnist_curves(output: Path, *, jobs: int | None = None, progress: str = "auto") -> dict[str, Value]:
    """The curves of 20 clients with 2 to 8 malicious ones; see `curves`."""
    return curves(output, shares=SHARES, seeds=2, jobs=jobs, progress=progress)


def _accuracies(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Value]]:
    for finding in document["findings"]:
        metric = finding["metrics"].get("accuracy_last")
        if metric:
            yield _rule(finding["stack"]), finding["attack"], (metric["value"], metric["low"], metric["high"])


def _rule(stack: str) -> str:
    return "mean" if stack == "none" else stack
