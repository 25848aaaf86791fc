"""What a stack noticed of an attack, over all seeds: shares dropped by round, and by group of honest clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fedsec.audit.pooled import estimate, mean_of, pooled
from fedsec.judges.detection import THIRDS, TRAINING

Tensors = Mapping[str, Tensor]


def noticed(seeds: Sequence[Tensors], classes: Sequence[str]) -> dict[str, Any] | None:
    """The exhibit ``detection`` of a finding; ``None`` where nobody was watched or nobody dropped.

    Args:
        seeds: the stored arrays of the cell of each seed (`fedsec.judges.detection.exhibits`, under ``x/``).
        classes: names of the classes.
    """
    watched = [tensors for tensors in seeds if "x/dropped/round" in tensors]
    dropped = ("x/dropped/attackers", "x/dropped/honest")
    if not watched or not any(bool((tensors[name] > 0).any()) for tensors in watched for name in dropped):
        return None
    groups = [*_by_group(watched, "class", classes), *_by_thirds(watched), *_by_group(watched, "training", TRAINING)]
    return {"rounds": _by_round(watched), "groups": groups}


def _by_round(seeds: Sequence[Tensors]) -> dict[str, list[float | None]]:
    """The mean over seeds of each round's shares; null in a round in which no seed heard anybody of a side."""
    numbers = np.unique(np.concatenate([tensors["x/dropped/round"].numpy() for tensors in seeds]))
    found: dict[str, list[float | None]] = {"x": numbers.tolist()}
    for side in ("attackers", "honest"):
        total, count = np.zeros(len(numbers)), np.zeros(len(numbers))
        for tensors in seeds:
            place = np.searchsorted(numbers, tensors["x/dropped/round"].numpy())
            share = tensors[f"x/dropped/{side}"].numpy()
            total[place] += np.nan_to_num(share)
            count[place] += ~np.isnan(share)
        shares = zip(total.tolist(), count.tolist(), strict=True)
        found[side] = [round(t / n, 4) if n else None for t, n in shares]
    return found


def _by_thirds(seeds: Sequence[Tensors]) -> list[dict[str, Any]]:
    return _by_group(seeds, "third", THIRDS)


def _by_group(seeds: Sequence[Tensors], by: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """The share of each group of honest clients that was dropped, with its interval; nothing if none was."""
    if not any(bool(tensors["x/heard/dropped"].any()) for tensors in seeds):
        return []
    rows = []
    for group, name in enumerate(names):
        members = [(t, t[f"x/heard/{by}"] == group) for t in seeds if f"x/heard/{by}" in t]
        units = [
            mean_of(name, tensors["x/heard/dropped"][own].double(), tensors["x/heard/client"][own])
            for tensors, own in members
            if bool(own.any())
        ]
        if units:
            clients = sum(len(np.unique(tensors["x/heard/client"][own].numpy())) for tensors, own in members)
            rows.append({"by": by, "group": name, "clients": clients, **estimate(pooled(units, "dropped", by, name))})
    return rows
