"""What the honest federation under each stack is worth, and what the stack costs beside having none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from fedsec.audit.plan import Training
from fedsec.audit.pooled import estimate, mean_of, pooled
from fedsec.audit.store import Stored

Read = Callable[[Training], Stored | None]


def score(trainings: Sequence[Training], read: Read) -> dict[str, Any]:
    """Accuracy (R^2 in a regression) of trainings over their seeds; empty if none is finished."""
    stored = [s for s in (read(t) for t in trainings) if s is not None]
    if not stored:
        return {}
    if any("correct" not in s.tensors for s in stored):
        values = [s.document["accuracy"][-1] for s in stored]
        return {"r2": {"value": sum(values) / len(values), "low": min(values), "high": max(values), "n": len(values)}}
    found = pooled([mean_of("accuracy", s.tensors["correct"].double()) for s in stored], "accuracy")
    return {"accuracy": estimate(found)}


class Utilities:
    """Utility and cost of the honest federations of an audit.

    Args:
        honest: trainings without an adversary, by stack and seed.
        control: label of the stack without defenses.
        rounds: of a training.
        read: a finished training, or ``None``.
    """

    def __init__(self, honest: Mapping[tuple[str, int], Training], *, control: str, rounds: int, read: Read) -> None:
        self._honest, self._control, self._rounds, self._read = honest, control, rounds, read

    def rows(self, stacks: Sequence[str]) -> list[dict[str, Any]]:
        """``utilities`` of the document, in the order of the stacks."""
        rows = {stack: self._row(stack) for stack in stacks}
        base = rows.get(self._control, {})
        for row in rows.values():
            for name, key in (
                ("ratio_upload", "upload_bytes_per_client_round"),
                ("ratio_seconds", "seconds_per_round"),
            ):
                if key in row:
                    row[name] = row[key] / base[key] if base.get(key) else None
        return list(rows.values())

    def _row(self, label: str) -> dict[str, Any]:
        pairs = [(t.seed, self._read(t)) for (stack, _), t in self._honest.items() if stack == label]
        done = [(seed, s) for seed, s in pairs if s is not None]
        head: dict[str, Any] = {"stack": label, "seeds": [seed for seed, _ in done]}
        if not done:
            return head
        documents = [s.document for _, s in done]
        uploads = sum(d["ledger"]["uploads"] for d in documents)
        downloads = sum(d["ledger"]["downloads"] for d in documents)
        refused: Counter[str] = Counter()
        for document in documents:
            refused.update(document["ledger"]["refused"])
        names = sorted({name for d in documents for name in d["diagnostics"]})
        row: dict[str, Any] = {
            **head,
            **score([self._honest[label, seed] for seed, _ in done], self._read),
            "loss": _average([d["loss"][-1] for d in documents]),
            "seconds_per_round": sum(d["seconds"] for d in documents) / (self._rounds * len(documents)),
            "upload_bytes_per_client_round": sum(d["ledger"]["upload_bytes"] for d in documents) / max(uploads, 1),
            "download_bytes_per_client_round": sum(d["ledger"]["download_bytes"] for d in documents)
            / max(downloads, 1),
            "rejected_uploads": dict(sorted(refused.items())),
            "dropouts": sum(d["ledger"]["dropped"] for d in documents),
            "engine": documents[0]["engine"],
            "diagnostics": {n: _average([d["diagnostics"].get(n) for d in documents]) for n in names},
            "curve": {"x": documents[0]["rounds"], "y": _mean_curve([d["accuracy"] for d in documents])},
        }
        drop = self._drop(done)
        if drop is not None:
            row["accuracy_drop"] = drop
        return row

    def _drop(self, done: list[tuple[int, Stored]]) -> dict[str, Any] | None:
        """Accuracy lost to the defense, paired by seed and test example."""
        pairs = []
        for seed, stored in done:
            honest = self._honest.get((self._control, seed))
            control = self._read(honest) if honest else None
            if control is None or "correct" not in stored.tensors:
                return None
            pairs.append(control.tensors["correct"].double() - stored.tensors["correct"].double())
        return estimate(pooled([mean_of("accuracy_drop", units) for units in pairs], "accuracy_drop"))


def _average(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _mean_curve(curves: list[list[float]]) -> list[float]:
    return [float(v) for v in torch.tensor(curves, dtype=torch.float64).mean(0)]
