"""The plan of an audit: a graph of trainings and cells, each under a key that says everything that can change it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedsec.audit.build import Builder
from fedsec.audit.keys import JUDGING_CODE, TRAINING_CODE, code_fingerprint, digest, numerics, plugin_fingerprint
from fedsec.config.schema import AttackEntry, AuditConfig, StackEntry
from fedsec.errors import ConfigurationError, Problem
from fedsec.protocol.compose import check_stack
from fedsec.protocol.events import Topic
from fedsec.protocol.parties import Adversary, Attack
from fedsec.registry import get
from fedsec.threat import Knowledge

Wanted = dict[Topic, frozenset[int]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: a stack, an adversary or none, a seed.

    Attributes:
        key: of its result.
        transcript: key of its transcript, empty if nobody wants one.
        stack: label.
        attack: label of the adversary, empty for the honest federation.
        seed: of the federation.
    """

    key: str
    transcript: str
    stack: str
    attack: str
    seed: int

    @property
    def label(self) -> str:
        """For people."""
        return f"train {self.stack}" + (f" under {self.attack}" if self.attack else "") + f", seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the audit: an attack against a stack with a seed.

    Attributes:
        key: of its result.
        attack: label.
        stack: label.
        seed: of the federation.
        honest: key of the honest training.
        attacked: key of the training under attack, empty for a passive attack.
        transcript: key of the transcript that it reads; empty for an active attack that observes nothing.
    """

    key: str
    attack: str
    stack: str
    seed: int
    honest: str
    attacked: str
    transcript: str

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.attack} on {self.stack}, seed {self.seed}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the results that it reads."""
        return tuple(key for key in (self.honest, self.attacked, self.transcript) if key)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an audit will do.

    Attributes:
        trainings: in order; those with one key are one training under several labels.
        cells: in order.
        excluded: ``(attack, stack, seed)`` that ``--only`` leaves out.
    """

    trainings: tuple[Training, ...]
    cells: tuple[Cell, ...]
    excluded: tuple[tuple[str, str, int], ...]


def wanted_by(attacks: Iterable[AttackEntry], rounds: int) -> Wanted:
    """Which rounds of which topics some of these attacks want."""
    wanted: dict[Topic, set[int]] = {}
    for entry in attacks:
        if isinstance(entry.plugin, Attack | Adversary):
            for topic in (*entry.plugin.wants, *entry.plugin.also_sees):
                own = {r for r in entry.plugin.rounds(rounds) if 0 <= r < rounds}
                if topic == Topic.RELEASE:
                    own = {rounds - 1}
                elif topic == Topic.BROADCAST:
                    # The next model too: two models in a row tell the aggregate between them.
                    own |= {r + 1 for r in own if r + 1 < rounds}
                wanted.setdefault(topic, set()).update(own)
    return {topic: frozenset(numbers) for topic, numbers in sorted(wanted.items())}


def check_stacks(config: AuditConfig, builder: Builder) -> None:
    """Refuse stacks that cannot work and attacks that lack what they need, before anything trains.

    Raises:
        ConfigurationError: with every reason at once.
    """
    setup = builder.setup(config.seeds[0])
    problems: list[Problem] = []
    for entry in config.stacks:
        found = check_stack(entry.defenses, setup.setting(entry.defenses), server_optimizer=setup.server.name)
        problems.extend(
            Problem(
                path=f"defenses ({entry.label})",
                found=refusal.found,
                expected=refusal.why,
                hint=refusal.instead[:1].upper() + refusal.instead[1:] + ".",
                file=config.source,
                line=entry.line,
            )
            for refusal in found
        )
    for attack in config.attacks:
        knows = attack.plugin.knows()
        lacks = []
        if Knowledge.AUXILIARY_DATA in knows and not len(setup.split.auxiliary):
            lacks.append(("public auxiliary examples", "federation.dataset: {auxiliary: 400}"))
        if {Knowledge.CANDIDATES, Knowledge.CLIENT_CANDIDATES} & knows and not len(setup.split.holdout):
            lacks.append(("held-out non-members", "federation.dataset: {holdout: 400}"))
        problems.extend(
            Problem(
                path=f"attacks ({attack.label})",
                found="none configured",
                expected=f"{attack.plugin.name} needs {what}",
                hint=f"Write `{fix}`.",
                file=config.source,
                line=attack.line,
            )
            for what, fix in lacks
        )
    if problems:
        raise ConfigurationError(problems)


def make_plan(config: AuditConfig, builder: Builder, *, only: Iterable[str] = ()) -> Plan:
    """The graph of an audit.

    Args:
        config: the configuration; its stacks were checked.
        builder: builds its federations.
        only: filters such as ``attack=dlg`` or ``stack=none`` or ``seed=0``; filters of one kind are alternatives.
    """
    chosen = _filters(config, only)
    base = _base_key(config, builder)
    wanted = wanted_by([a for a in config.attacks if isinstance(a.plugin, Attack)], config.federation.rounds)
    trainings: dict[tuple[str, str, str], Training] = {}
    cells: list[Cell] = []
    excluded: list[tuple[str, str, int]] = []
    for seed in config.seeds:
        for stack in config.stacks:
            honest = _training(base, stack, None, seed, wanted)
            # Utility of every stack is reported, so its honest training always runs.
            if _kept(chosen, {"stack": stack.label, "seed": str(seed)}):
                trainings[honest.key, honest.stack, ""] = honest
            for attack in config.attacks:
                if not _kept(chosen, {"attack": attack.label, "stack": stack.label, "seed": str(seed)}):
                    excluded.append((attack.label, stack.label, seed))
                    continue
                attacked = None
                if isinstance(attack.plugin, Adversary):
                    reads = wanted_by([attack], config.federation.rounds)
                    attacked = _training(base, stack, attack, seed, reads)
                    trainings[attacked.key, attacked.stack, attacked.attack] = attacked
                cells.append(_cell(config, attack, stack, seed, honest, attacked))
    return Plan(trainings=tuple(trainings.values()), cells=tuple(cells), excluded=tuple(excluded))


def _base_key(config: AuditConfig, builder: Builder) -> dict[str, Any]:
    """What every training of this audit depends on."""
    resolved = config.resolved()["federation"]
    loaded = [spec.get("load") or spec.get("build") for spec in (resolved["dataset"], resolved["model"])]
    sources = [builder.source_fingerprint(target) for target in loaded if target]
    return {
        "federation": resolved,
        "data": builder.dataset.fingerprint,
        "user code": sources,
        "plugins": [plugin_fingerprint(plugin) for plugin in builder.plugins()],
        "code": code_fingerprint(TRAINING_CODE),
        "numerics": numerics(builder.device),
    }


def _training(
    base: dict[str, Any], stack: StackEntry, attack: AttackEntry | None, seed: int, wanted: Wanted
) -> Training:
    key = digest(
        {
            **base,
            "kind": "training",
            "stack": [plugin_fingerprint(defense) for defense in stack.defenses],
            "adversary": plugin_fingerprint(attack.plugin) if attack else None,
            "seed": seed,
        }
    )
    rounds = {topic.value: sorted(numbers) for topic, numbers in wanted.items()}
    transcript = digest({"kind": "transcript", "training": key, "wanted": rounds}) if rounds else ""
    label = attack.label if attack else ""
    return Training(key=key, transcript=transcript, stack=stack.label, attack=label, seed=seed)


def _cell(
    config: AuditConfig,
    attack: AttackEntry,
    stack: StackEntry,
    seed: int,
    honest: Training,
    attacked: Training | None,
) -> Cell:
    judge = get("judges", attack.plugin.judge)
    key = digest(
        {
            "kind": "cell",
            "attack": plugin_fingerprint(attack.plugin),
            "position": attack.position or "",
            "judge": f"{judge.__module__}.{judge.__qualname__}",
            "code": code_fingerprint(JUDGING_CODE),
            "honest": honest.key,
            "attacked": attacked.key if attacked else "",
            "transcript": (attacked or honest).transcript,
        }
    )
    return Cell(
        key=key,
        attack=attack.label,
        stack=stack.label,
        seed=seed,
        honest=honest.key,
        attacked=attacked.key if attacked else "",
        transcript=(attacked or honest).transcript,
    )


def _filters(config: AuditConfig, only: Iterable[str]) -> dict[str, set[str]]:
    known = {
        "attack": {attack.label for attack in config.attacks},
        "stack": {stack.label for stack in config.stacks},
        "seed": {str(seed) for seed in config.seeds},
    }
    chosen: dict[str, set[str]] = {}
    problems: list[Problem] = []
    for text in only:
        kind, _, value = text.partition("=")
        if kind not in known or value not in known[kind]:
            names = ", ".join(sorted(known.get(kind, set(known))))
            problems.append(
                Problem(
                    path="--only",
                    found=text,
                    expected="expected attack=LABEL, stack=LABEL or seed=N",
                    hint=f"Known here: {names}.",
                )
            )
            continue
        chosen.setdefault(kind, set()).add(value)
    if problems:
        raise ConfigurationError(problems)
    return chosen


def _kept(chosen: dict[str, set[str]], place: dict[str, str]) -> bool:
    return all(place[kind] in values for kind, values in chosen.items() if kind in place)
