"""From stored results to the audit document, ``fedsec/audit/1``: the only source of every report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fedsec.audit.exhibits import exhibits
from fedsec.audit.plan import Cell, Plan, Training
from fedsec.audit.store import Store, Stored
from fedsec.config.schema import AttackEntry, AuditConfig, StackEntry
from fedsec.data.examples import DatasetInfo
from fedsec.judges.base import Measurement
from fedsec.protocol.compose import opening_coalitions
from fedsec.protocol.parties import Adversary
from fedsec.randomness import numpy_generator
from fedsec.statistics.pooling import Pooled, pool
from fedsec.statistics.severity import severity_of
from fedsec.threat import ORACLES, Capability

NOT_RUN = "not run yet: the audit was stopped before its turn"


@dataclass(frozen=True)
class _Collected:
    """One cell as it ended."""

    cell: Cell
    status: str
    reason: str
    stored: Stored | None


class Assembly:
    """Collects the results of a plan from the store."""

    def __init__(self, config: AuditConfig, plan: Plan, store: Store, *, info: DatasetInfo) -> None:
        self.config, self.plan, self.store = config, plan, store
        self._show = config.report.originals == "show" or info.public
        self._words = info.words
        self._attacks = {entry.label: entry for entry in config.attacks}
        self._stacks = {entry.label: entry for entry in config.stacks}
        self._honest = {(t.stack, t.seed): t for t in plan.trainings if not t.attack}
        self._trained: dict[str, Stored] = {}
        self.control = next(entry.label for entry in config.stacks if not entry.defenses)
        self.cells = [self._collect(cell) for cell in plan.cells]

    def _collect(self, cell: Cell) -> _Collected:
        if self.store.has(cell.key):
            stored = self.store.artifacts.read(cell.key)
            return _Collected(cell, str(stored.document["status"]), str(stored.document["reason"]), stored)
        reason = self.store.reason(cell.key)
        return _Collected(cell, "error" if reason else "not run", reason or NOT_RUN, None)

    def training(self, training: Training) -> Stored | None:
        """A finished training, or ``None``."""
        if training.key not in self._trained:
            if not self.store.has(training.key):
                return None
            self._trained[training.key] = self.store.artifacts.read(training.key)
        return self._trained[training.key]

    def cell_rows(self) -> list[dict[str, Any]]:
        """``cells`` of the document, those that ``--only`` left out included."""
        rows = [self._cell_row(item) for item in self.cells]
        rows.extend(
            _empty_cell(attack, stack, seed, "not run", "left out by --only")
            for attack, stack, seed in self.plan.excluded
        )
        return rows

    def _cell_row(self, item: _Collected) -> dict[str, Any]:
        row = _empty_cell(item.cell.attack, item.cell.stack, item.cell.seed, item.status, item.reason)
        row["key"] = item.cell.key
        if item.stored is None:
            return row
        document = item.stored.document
        row["seen"] = document.get("seen", {})
        row["cost"] = {"seconds": document["seconds"]}
        for measurement in document.get("measurements", []):
            alone = measurement["alone"]
            kept = ("value", "low", "high", "n", "floor", "ceiling")
            row["metrics"][measurement["name"]] = {name: alone[name] for name in kept}
        return row

    def findings(self) -> list[dict[str, Any]]:
        """One finding per attack and stack over the seeds."""
        rows = [self._finding(attack, stack) for attack in self.config.attacks for stack in self.config.stacks]
        succeeded = {row["attack"]: _succeeded(row) for row in rows if row["stack"] == self.control}
        for row in rows:
            row["control_succeeded"] = succeeded.get(row["attack"])
        return rows

    def _finding(self, attack: AttackEntry, stack: StackEntry) -> dict[str, Any]:
        items = [i for i in self.cells if (i.cell.attack, i.cell.stack) == (attack.label, stack.label)]
        status, reason = _status(items)
        plugin = attack.plugin
        families = {d.family for d in stack.defenses}
        row: dict[str, Any] = {
            "attack": attack.label,
            "family": plugin.family,
            "stack": stack.label,
            "status": status,
            "severity": None,
            "metrics": {},
            "utility": {},
            "cost": {},
            "reason": reason,
            "taxonomy": [asdict(entry) for entry in plugin.taxonomy],
            "adaptive": families <= plugin.adaptive_to,
            "notes": [],
            "exhibits": {},
            "by_seed": {},
            "exposed": [],
        }
        measured = [i for i in items if i.status == "measured" and i.stored is not None]
        if status != "measured" or not measured:
            return row
        row["notes"] = _notes([_stored(i).document["notes"] for i in measured])
        per_seed = [{m["name"]: m for m in _measurements(_stored(i))} for i in measured]
        names = [name for name in per_seed[0] if all(name in other for other in per_seed)]
        for name in names:
            pooled = _pool([seed[name] for seed in per_seed], attack.label, name)
            row["metrics"][name] = _metric(pooled)
            if pooled.headline:
                row["severity"] = severity_of(pooled.advantage_high).value
                row["by_seed"] = {str(i.cell.seed): value for i, value in zip(measured, pooled.seeds, strict=True)}
        row["exhibits"] = exhibits(
            {k.removeprefix("x/"): v for k, v in _stored(measured[0]).tensors.items() if k.startswith("x/")},
            show_originals=self._show,
            derived=Capability.TESTING_DATA_CONTROL in plugin.threat.capabilities,
            words=self._words,
        )
        row["exposed"] = _stored(measured[0]).document.get("exposed", [])
        row["cost"] = {"seconds_per_cell": sum(_stored(i).document["seconds"] for i in measured) / len(measured)}
        if isinstance(plugin, Adversary):
            attacked = [t for t in self.plan.trainings if (t.stack, t.attack) == (stack.label, attack.label)]
            row["utility"] = self._accuracy(attacked)
            row["cost"]["compromised"] = _stored(measured[0]).document["compromised"]
        else:
            row["utility"] = self._accuracy([t for k, t in self._honest.items() if k[0] == stack.label])
        return row

    def _accuracy(self, trainings: Sequence[Training]) -> dict[str, Any]:
        """Accuracy of trainings over their seeds."""
        stored = [s for s in (self.training(t) for t in trainings) if s is not None]
        if not stored:
            return {}
        if any("correct" not in s.tensors for s in stored):
            values = [s.document["accuracy"][-1] for s in stored]
            return {
                "r2": {"value": sum(values) / len(values), "low": min(values), "high": max(values), "n": len(values)}
            }
        pooled = _pool([_mean("accuracy", s.tensors["correct"].double()) for s in stored], "accuracy")
        return {"accuracy": {k: v for k, v in _metric(pooled).items() if k in {"value", "low", "high", "n"}}}

    def utilities(self) -> list[dict[str, Any]]:
        """Utility and cost of every stack's honest federation, beside the undefended one's."""
        base: dict[str, Any] = {}
        rows = []
        for stack in self.config.stacks:
            pairs = [(t.seed, self.training(t)) for (label, _), t in self._honest.items() if label == stack.label]
            done = [(seed, s) for seed, s in pairs if s is not None]
            row: dict[str, Any] = {"stack": stack.label, "seeds": [seed for seed, _ in done]}
            if done:
                row.update(self._utility(stack.label, done))
                if stack.label == self.control:
                    base = row
                for name, key in (
                    ("ratio_upload", "upload_bytes_per_client_round"),
                    ("ratio_seconds", "seconds_per_round"),
                ):
                    row[name] = row[key] / base[key] if base.get(key) else None
            rows.append(row)
        return rows

    def _utility(self, label: str, done: list[tuple[int, Stored]]) -> dict[str, Any]:
        documents = [s.document for _, s in done]
        rounds = self.config.federation.rounds
        uploads = sum(d["ledger"]["uploads"] for d in documents)
        downloads = sum(d["ledger"]["downloads"] for d in documents)
        refused: Counter[str] = Counter()
        for document in documents:
            refused.update(document["ledger"]["refused"])
        names = sorted({name for d in documents for name in d["diagnostics"]})
        row: dict[str, Any] = {
            **self._accuracy([self._honest[label, seed] for seed, _ in done]),
            "loss": _average([d["loss"][-1] for d in documents]),
            "seconds_per_round": sum(d["seconds"] for d in documents) / (rounds * len(documents)),
            "upload_bytes_per_client_round": sum(d["ledger"]["upload_bytes"] for d in documents) / max(uploads, 1),
            "download_bytes_per_client_round": sum(d["ledger"]["download_bytes"] for d in documents)
            / max(downloads, 1),
            "rejected_uploads": dict(sorted(refused.items())),
            "dropouts": sum(d["ledger"]["dropped"] for d in documents),
            "engine": documents[0]["engine"],
            "diagnostics": {n: _average([d["diagnostics"].get(n) for d in documents]) for n in names},
            "curve": {"x": documents[0]["rounds"], "y": _mean_curve([d["accuracy"] for d in documents])},
        }
        drop = self._drop(label, done)
        if drop is not None:
            row["accuracy_drop"] = drop
        return row

    def _drop(self, label: str, done: list[tuple[int, Stored]]) -> dict[str, Any] | None:
        """Accuracy lost to the defense, paired by seed and test example."""
        pairs = []
        for seed, stored in done:
            honest = self._honest.get((self.control, seed))
            control = self.training(honest) if honest else None
            if control is None or "correct" not in stored.tensors:
                return None
            pairs.append(control.tensors["correct"].double() - stored.tensors["correct"].double())
        pooled = _pool([_mean("accuracy_drop", units) for units in pairs], "accuracy_drop")
        return {k: v for k, v in _metric(pooled).items() if k in {"value", "low", "high", "n"}}

    def stack_rows(self) -> list[dict[str, Any]]:
        """``stacks`` of the document: guarantees and claims."""
        rows = []
        for stack in self.config.stacks:
            trained = [self.training(t) for (label, _), t in self._honest.items() if label == stack.label]
            claims: list[dict[str, Any]] = next((s.document["claims"] for s in trained if s is not None), [])
            ok = bool(trained) and all(s is not None for s in trained)
            rows.append(
                {
                    "label": stack.label,
                    "defenses": [_defense_row(d) for d in stack.defenses],
                    "claims": claims,
                    "status": "trained" if ok else "error",
                }
            )
        return rows

    def opens(self) -> list[dict[str, Any]]:
        """The smallest coalitions that open each secret."""
        return [
            {"secret": secret, "stack": stack.label, "coalitions": coalitions}
            for stack in self.config.stacks
            for secret, coalitions in opening_coalitions(stack.defenses)
        ]


def attack_row(entry: AttackEntry) -> dict[str, Any]:
    """One of ``attacks`` of the document."""
    plugin, threat = entry.plugin, entry.plugin.threat
    active = isinstance(plugin, Adversary)
    return {
        "label": entry.label,
        "name": plugin.name,
        "family": plugin.family,
        "summary": plugin.summary,
        "position": entry.position or threat.position,
        "story": threat.story,
        "knowledge": sorted(k.value for k in plugin.knows()),
        "oracles": sorted(k.value for k in plugin.knows() & ORACLES),
        "capabilities": sorted(c.value for c in threat.capabilities),
        "stage": threat.stage.value,
        "active": active,
        "observes": active and bool(plugin.wants),
        "audits": isinstance(plugin, Adversary) and plugin.flips_coins,
        "judge": plugin.judge,
        "parameters": dict(plugin.parameters()),
        "paper": asdict(plugin.paper) if plugin.paper else None,
        "taxonomy": [asdict(t) for t in plugin.taxonomy],
        "cost": plugin.cost,
    }


def _defense_row(plugin: Any) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "family": plugin.family,
        "summary": plugin.summary,
        "parameters": dict(plugin.parameters()),
        "guarantee": asdict(plugin.guarantee),
        "enforced_by": plugin.enforcement.value,
        "paper": asdict(plugin.paper) if plugin.paper else None,
        "cost": plugin.cost,
    }


def _stored(item: _Collected) -> Stored:
    if item.stored is None:
        raise ValueError("this cell has no result")
    return item.stored


def _empty_cell(attack: str, stack: str, seed: int, status: str, reason: str) -> dict[str, Any]:
    return {
        "key": "",
        "attack": attack,
        "stack": stack,
        "seed": seed,
        "status": status,
        "metrics": {},
        "cost": {},
        "reason": reason,
        "seen": {},
    }


def _status(items: list[_Collected]) -> tuple[str, str]:
    """The worst outcome over the seeds decides, and says why."""
    for status in ("error", "not run", "measured", "blocked", "not applicable"):
        found = [item for item in items if item.status == status]
        if found:
            return status, found[0].reason
    return "not run", "left out by --only"


def _measurements(stored: Stored) -> list[dict[str, Any]]:
    rows = []
    for row in stored.document.get("measurements", []):
        arrays = {name: stored.tensors[f"m/{row['name']}/{name}"] for name in row["arrays"]}
        rows.append({**{k: v for k, v in row.items() if k not in {"arrays", "alone"}}, **arrays})
    return rows


def _mean(name: str, units: Tensor) -> dict[str, Any]:
    return asdict(Measurement(name=name, statistic="mean", units=units, floor=0.0))


def _notes(by_seed: list[list[str]]) -> list[str]:
    """Notes of all seeds; one that differs from an earlier one in its numbers only is left out."""
    kept = {re.sub(r"[0-9.]+", "#", note): note for notes in reversed(by_seed) for note in reversed(notes)}
    return list(reversed(kept.values()))


def _pool(measurements: Sequence[dict[str, Any]], *purpose: str) -> Pooled:
    # The draws do not depend on the stack: equal observations get equal intervals.
    return pool(measurements, generator=numpy_generator("pool", *purpose))


def _metric(pooled: Pooled) -> dict[str, Any]:
    return {k: v for k, v in asdict(pooled).items() if k not in {"name", "seeds"}}


def _succeeded(row: dict[str, Any]) -> bool | None:
    """Whether an attack beat its floor on the undefended control: only then is its failure elsewhere evidence."""
    headline = [m for m in row["metrics"].values() if m["headline"]]
    return bool(headline[0]["advantage_low"] > 0.0) if headline else None


def _average(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _mean_curve(curves: list[list[float]]) -> list[float]:
    return [float(v) for v in torch.tensor(curves, dtype=torch.float64).mean(0)]
