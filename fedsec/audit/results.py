"""From stored results to the audit document, ``fedsec/audit/1``: the only source of every report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from fedsec.audit.described import stack_row
from fedsec.audit.exhibits import exhibits
from fedsec.audit.noticed import noticed
from fedsec.audit.plan import Cell, Plan, Training
from fedsec.audit.pooled import measurements, metric, pooled
from fedsec.audit.robustness import asked_for, readable, stated, unstated
from fedsec.audit.store import Store, Stored
from fedsec.audit.utilities import Utilities, score
from fedsec.config.schema import AttackEntry, AuditConfig, StackEntry
from fedsec.data.examples import DatasetInfo
from fedsec.protocol.compose import opening_coalitions
from fedsec.protocol.parties import Adversary
from fedsec.protocol.stage import Setting
from fedsec.statistics.severity import severity_of
from fedsec.threat import Capability

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
        self._words, self._classes = info.words, info.classes
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
            "checks": [],
        }
        measured = [i for i in items if i.status == "measured" and i.stored is not None]
        if status != "measured" or not measured:
            return row
        row["notes"] = _notes([_stored(i).document["notes"] for i in measured])
        if plugin.judge == "evasion" and (why := unstated(plugin)):
            row["notes"].append(why)
        per_seed = [{m["name"]: m for m in measurements(_stored(i))} for i in measured]
        names = [name for name in per_seed[0] if all(name in other for other in per_seed)]
        for name in names:
            found = pooled([seed[name] for seed in per_seed], attack.label, name)
            row["metrics"][name] = metric(found)
            if found.headline:
                row["severity"] = severity_of(found.advantage_high).value
                row["by_seed"] = {str(i.cell.seed): value for i, value in zip(measured, found.seeds, strict=True)}
        row["exhibits"] = exhibits(
            {k.removeprefix("x/"): v for k, v in _stored(measured[0]).tensors.items() if k.startswith("x/")},
            show_originals=self._show,
            derived=Capability.TESTING_DATA_CONTROL in plugin.threat.capabilities,
            words=self._words,
        )
        watched = noticed([_stored(i).tensors for i in measured], self._classes)
        if watched is not None:
            row["exhibits"]["detection"] = watched
        row["exposed"] = _stored(measured[0]).document.get("exposed", [])
        row["checks"] = _checks([_stored(i).document.get("checks", []) for i in measured])
        row["cost"] = {"seconds_per_cell": sum(_stored(i).document["seconds"] for i in measured) / len(measured)}
        if isinstance(plugin, Adversary):
            attacked = [t for t in self.plan.trainings if (t.stack, t.attack) == (stack.label, attack.label)]
            row["utility"] = score(attacked, self.training)
            row["cost"]["compromised"] = _stored(measured[0]).document["compromised"]
        else:
            row["utility"] = score([t for k, t in self._honest.items() if k[0] == stack.label], self.training)
        return row

    def utilities(self) -> list[dict[str, Any]]:
        """Utility and cost of every stack's honest federation, beside the undefended one's."""
        rounds = self.config.federation.rounds
        found = Utilities(self._honest, control=self.control, rounds=rounds, read=self.training)
        return found.rows([stack.label for stack in self.config.stacks])

    def robustness(self) -> list[dict[str, Any]]:
        """Accuracy of every stack under the worst of its evasion attacks for each input, at the sizes that they use."""
        attacks = {entry.label: entry.plugin for entry in self.config.attacks if entry.plugin.judge == "evasion"}
        seen: dict[str, dict[int, dict[str, dict[str, Tensor]]]] = {s.label: {} for s in self.config.stacks}
        for item in self.cells:
            arrays = readable(item.stored) if item.stored is not None else None
            if arrays is not None:
                seen[item.cell.stack].setdefault(item.cell.seed, {})[item.cell.attack] = arrays
        return stated(seen, asked_for(attacks.values()), {a: getattr(p, "norm", "") for a, p in attacks.items()})

    def stack_rows(self, settings: Callable[[StackEntry], Setting]) -> list[dict[str, Any]]:
        """``stacks`` of the document: guarantees, claims, and the share of malicious updates that they bear.

        Args:
            settings: the federation as the defenses of a stack know it.
        """
        rows = []
        for stack in self.config.stacks:
            trained = [self.training(t) for (label, _), t in self._honest.items() if label == stack.label]
            claims: list[dict[str, Any]] = next((s.document["claims"] for s in trained if s is not None), [])
            ok = bool(trained) and all(s is not None for s in trained)
            rows.append(stack_row(stack, settings(stack), claims, trained=ok))
        return rows

    def opens(self) -> list[dict[str, Any]]:
        """The smallest coalitions that open each secret."""
        return [
            {"secret": secret, "stack": stack.label, "coalitions": coalitions}
            for stack in self.config.stacks
            for secret, coalitions in opening_coalitions(stack.defenses)
        ]


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


def _notes(by_seed: list[list[str]]) -> list[str]:
    """Notes of all seeds; one that differs from an earlier one in its numbers only is left out."""
    kept = {re.sub(r"[0-9.]+", "#", note): note for notes in reversed(by_seed) for note in reversed(notes)}
    return list(reversed(kept.values()))


def _checks(by_seed: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each check over the seeds: passed if it passed in all of them, else as in the first one in which it failed."""
    kept: dict[str, dict[str, Any]] = {}
    for check in (check for checks in by_seed for check in checks):
        if check["name"] not in kept or (kept[check["name"]]["passed"] and not check["passed"]):
            kept[check["name"]] = check
    return list(kept.values())


def _succeeded(row: dict[str, Any]) -> bool | None:
    """Whether an attack beat its floor on the undefended control: only then is its failure elsewhere evidence."""
    headline = [m for m in row["metrics"].values() if m["headline"]]
    return bool(headline[0]["advantage_low"] > 0.0) if headline else None
