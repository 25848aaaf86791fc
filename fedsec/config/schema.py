"""A configuration that has been checked: plugins are objects, every default is filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsec.config.sections import Algorithm, Report
from fedsec.federation.training import LocalTraining
from fedsec.plugin import Plugin

if TYPE_CHECKING:
    from fedsec.protocol.parties import Adversary, Attack
    from fedsec.protocol.stage import Defense


RANKS = ("none", "low", "medium", "high", "critical")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Which data, and how its examples are used.

    Attributes:
        name: of the dataset plugin, or the text of ``load``.
        parameters: of the plugin with defaults, or keyword arguments of the function.
        train: examples spread over the clients; ``None`` for all that the others leave.
        holdout: examples that no client holds.
        auxiliary: public examples.
        test: examples for utility and robustness; ``None`` for all.
        load: a user's ``module:function``, or ``None``.
        plugin: the plugin, or ``None`` with ``load``.
    """

    name: str
    parameters: Mapping[str, Any]
    train: int | None
    holdout: int
    auxiliary: int
    test: int | None
    load: str | None = None
    plugin: Plugin | None = None


@dataclass(frozen=True, kw_only=True)
class PluginSpec:
    """A partition or a model.

    Attributes:
        name: of the plugin, or the text of ``build``.
        parameters: of the plugin with defaults, or keyword arguments of the function.
        build: a user's ``module:function``, or ``None``.
        plugin: the plugin, or ``None`` with ``build``.
    """

    name: str
    parameters: Mapping[str, Any]
    build: str | None = None
    plugin: Plugin | None = None


@dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """What is audited; the attributes are described in `fedsec.config.sections.Federation`."""

    dataset: DatasetSpec
    partition: PluginSpec
    model: PluginSpec
    algorithm: Algorithm
    clients: int
    clients_per_round: int
    sampling: str
    availability: float
    dropouts: float
    stragglers: float
    rounds: int
    evaluate_every: int
    local: LocalTraining
    precision: str

    @property
    def local_training(self) -> LocalTraining:
        """`local`."""
        return self.local


@dataclass(frozen=True, kw_only=True)
class AttackEntry:
    """An attack of the configuration.

    Attributes:
        label: unique among the attacks.
        plugin: the attack.
        position: of a passive attack, its threat model's unless given; empty for an active one.
        line: where it stands in the file.
    """

    label: str
    plugin: Attack | Adversary
    position: str
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class StackEntry:
    """A stack of defenses.

    Attributes:
        label: unique among the stacks.
        defenses: in the order in which they act on a client's update; empty for ``none``.
        line: where it stands in the file.
    """

    label: str
    defenses: tuple[Defense, ...]
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class GateEntry:
    """A condition that every cell that it names must meet.

    Attributes:
        attack: label, or ``*`` for each.
        stack: label, or ``*`` for each.
        metric: ``severity``, or the name of a measurement.
        below: number or severity that the metric must be below; ``None`` if it must be above something.
        above: number that the metric must be above.
        line: where it stands in the file.
    """

    attack: str
    stack: str
    metric: str
    below: float | str | None
    above: float | None
    line: int | None = field(default=None, compare=False)

    @property
    def text(self) -> str:
        """The condition in words."""
        bound = f"below {self.below}" if self.below is not None else f"above {self.above}"
        attack = "every attack" if self.attack == "*" else self.attack
        stack = "every stack" if self.stack == "*" else self.stack
        return f"{self.metric} of {attack} on {stack} {bound}"

    def holds(self, value: float) -> bool:
        """Whether a value meets the condition; a severity is its rank from 0, none, to 4, critical."""
        if self.above is not None:
            return value > self.above
        if isinstance(self.below, str):
            return value < RANKS.index(self.below)
        return self.below is not None and value < self.below


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """A checked configuration.

    Attributes:
        version: of the format.
        name: title of the audit.
        federation: what is audited.
        attacks: in the order of the file.
        stacks: in the order of the file; one of them is empty.
        seeds: distinct.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
        gates: conditions.
        report: what the report shows; ``originals`` is decided.
        source: the file as it was named, or empty.
        folder: where relative paths and a user's own modules are looked up.
    """

    version: int
    name: str
    federation: FederationConfig
    attacks: tuple[AttackEntry, ...]
    stacks: tuple[StackEntry, ...]
    seeds: tuple[int, ...]
    device: str
    gates: tuple[GateEntry, ...]
    report: Report
    source: str = field(default="", compare=False)
    folder: Path = field(default=Path(), compare=False)

    def resolved(self) -> dict[str, Any]:
        """The configuration with every default, as JSON-able values; loading it gives an equal configuration."""
        return {
            "version": self.version,
            "name": self.name,
            "federation": _federation(self.federation),
            "attacks": [_attack(entry) for entry in self.attacks],
            "defenses": [
                {"label": entry.label, "stack": [defense.spec() for defense in entry.defenses]} for entry in self.stacks
            ],
            "seeds": list(self.seeds),
            "device": self.device,
            "gates": [_gate(entry) for entry in self.gates],
            "report": self.report.model_dump(),
        }


def _federation(federation: FederationConfig) -> dict[str, Any]:
    data, local = federation.dataset, federation.local
    named = {"load": data.load} if data.load is not None else {"name": data.name}
    splits = {"train": data.train, "holdout": data.holdout, "auxiliary": data.auxiliary, "test": data.test}
    return {
        "dataset": {**named, **splits, **data.parameters},
        "partition": _plugin(federation.partition),
        "model": _plugin(federation.model),
        "algorithm": federation.algorithm.model_dump(),
        "clients": federation.clients,
        "clients_per_round": federation.clients_per_round,
        "sampling": federation.sampling,
        "availability": federation.availability,
        "dropouts": federation.dropouts,
        "stragglers": federation.stragglers,
        "rounds": federation.rounds,
        "evaluate_every": federation.evaluate_every,
        "local": {
            "epochs": local.epochs,
            "batch_size": local.batch_size,
            "optimizer": local.optimizer,
            "learning_rate": local.learning_rate,
            "momentum": local.momentum,
            "weight_decay": local.weight_decay,
            "max_steps": local.max_steps,
            "schedule": local.schedule,
        },
        "precision": federation.precision,
    }


def _plugin(spec: PluginSpec) -> dict[str, Any]:
    named = {"build": spec.build} if spec.build is not None else {"name": spec.name}
    return {**named, **spec.parameters}


def _attack(entry: AttackEntry) -> dict[str, Any]:
    placed = {"position": entry.position} if entry.position else {}
    return {**entry.plugin.spec(), "label": entry.label, **placed}


def _gate(entry: GateEntry) -> dict[str, Any]:
    bound = {"below": entry.below} if entry.below is not None else {"above": entry.above}
    return {"attack": entry.attack, "stack": entry.stack, "metric": entry.metric, **bound}
