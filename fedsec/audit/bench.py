"""What a worker does: trainings and cells, each from a key to a stored result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from fedsec.audit.build import Builder
from fedsec.audit.challenge import (
    ClientChallenge,
    MembershipChallenge,
    client_challenge,
    coalition_position,
    labels_behind,
    membership_challenge,
    population_of,
    public_facts,
    truth,
    with_counts,
)
from fedsec.audit.masks import masking_of
from fedsec.audit.plan import Cell, Training, wanted_by
from fedsec.audit.planted import plant
from fedsec.audit.seeing import briefly, in_reach, ledger_of, rounds_of, see
from fedsec.audit.shadows import Shadows
from fedsec.audit.store import Artifacts
from fedsec.audit.stored import judged, outcome_of, training_document
from fedsec.audit.transcripts import pack, unpack
from fedsec.config.schema import AuditConfig
from fedsec.federation.evaluate import hits
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup
from fedsec.judges.base import Judge, Judgement
from fedsec.judges.checks import Battery
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Adversary, Attack, MaliciousServer
from fedsec.protocol.stage import Defense
from fedsec.randomness import generator
from fedsec.registry import get
from fedsec.threat import Knowledge

Progress = Callable[[int, int], None]


class Workbench:
    """Runs the tasks of one configuration; keeps the last few federations at hand."""

    def __init__(self, config: AuditConfig, artifacts: Path, workers: int = 1) -> None:
        self.config = config
        self.artifacts = Artifacts(artifacts)
        self.workers = workers
        self._attacks = {entry.label: entry for entry in config.attacks}
        self._stacks = {entry.label: tuple(entry.defenses) for entry in config.stacks}
        # Federations train on the configured device; attacks and judges read what they left behind on the CPU.
        trains = Builder(config)
        reads = trains if trains.device.type == "cpu" else Builder(config, device="cpu")
        self._federation = lru_cache(maxsize=2)(trains.setup)
        self._setup = self._federation if reads is trains else lru_cache(maxsize=2)(reads.setup)
        self._challenge = lru_cache(maxsize=2)(self._membership)
        self._clients = lru_cache(maxsize=2)(self._participation)

    def run(self, task: Training | Cell, progress: Progress) -> dict[str, Any]:
        """Run one task and store its result; returns ``{"seconds": ...}``."""
        started = time.perf_counter()
        if isinstance(task, Training):
            self._train(task, progress)
        else:
            self._measure(task, time.perf_counter())
        return {"seconds": time.perf_counter() - started}

    def _membership(self, seed: int) -> MembershipChallenge | None:
        return membership_challenge(self._setup(seed))

    def _participation(self, seed: int) -> ClientChallenge | None:
        return client_challenge(self._setup(seed))

    def _shadows(self, task: Cell, stack: tuple[Defense, ...], knows: frozenset[Knowledge]) -> Shadows | None:
        """Shadow federations for who knows the algorithm; they train where the real ones do."""
        if Knowledge.LOCAL_TRAINING not in knows:
            return None
        return Shadows(self._federation(task.seed).of_stack(stack), stack, task.honest, self.artifacts)

    def _masking(self, task: Cell, setup: FederationSetup, released: Tensor) -> Callable[[], Battery]:
        """The masking battery of a released model, which all attacks on it share."""
        return lambda: masking_of(setup, released, training=task.honest, artifacts=self.artifacts)

    def _train(self, task: Training, progress: Progress) -> None:
        stack = self._stacks[task.stack]
        setup = self._federation(task.seed).of_stack(stack)
        adversary, facts = None, None
        if task.attack:
            plugin = self._attacks[task.attack].plugin
            if not isinstance(plugin, Adversary):
                raise TypeError(f"{task.attack} does not train")
            adversary = plugin
            facts = public_facts(setup, stack, plugin)
        readers = [e for e in self.config.attacks if isinstance(e.plugin, Attack)]
        wanted = wanted_by([self._attacks[task.attack]] if task.attack else readers, setup.rounds)
        federation = Federation(setup, stack, adversary=adversary, facts=facts, wanted=wanted, workers=self.workers)
        result = federation.run(progress)
        if task.transcript:
            packed = pack(result.events)
            document = {**packed.document, "kind": "transcript", "label": task.label}
            self.artifacts.write(task.transcript, document, packed.tensors)
        tensors = {"released": result.released, "predictions": result.predictions}
        tensors |= {f"memory/{name}": value for name, value in result.memory.items()}
        tensors |= {f"watch/{name}": column for name, column in result.watch.items()}
        if result.probe is not None:
            tensors["probe"] = result.probe
        if setup.info.task != "regression":
            right = result.predictions == setup.split.test.y
            tensors["correct"] = right if right.dim() == 1 else right.double().mean(-1)
        self.artifacts.write(task.key, training_document(task, result), tensors)

    def _measure(self, task: Cell, started: float) -> None:
        stack = self._stacks[task.stack]
        setup = self._setup(task.seed).of_stack(stack)
        entry = self._attacks[task.attack]
        document: dict[str, Any] = {"kind": "cell", "label": task.label, "reason": "", "notes": []}
        judgement: Judgement | None = None
        try:
            if isinstance(entry.plugin, Attack):
                position = entry.position or entry.plugin.threat.position
                judgement = self._passive(task, setup, stack, entry.plugin, position, document)
            elif entry.plugin.wants:
                judgement = self._observing(task, setup, stack, entry.plugin, document)
            else:
                judgement = self._active(task, setup, entry.plugin, document)
            document["status"] = "measured" if judgement is not None else document["status"]
        except NotApplicable as reason:
            document["status"], document["reason"] = "not applicable", str(reason)
        tensors: dict[str, Tensor] = {}
        if judgement is not None:
            tensors = judged(judgement, document)
        document["seconds"] = time.perf_counter() - started
        self.artifacts.write(task.key, document, tensors)

    def _passive(
        self,
        task: Cell,
        setup: FederationSetup,
        stack: tuple[Defense, ...],
        attack: Attack,
        position: str,
        document: dict[str, Any],
    ) -> Judgement | None:
        """Run a passive attack on what its position can read, or say why it reads nothing."""
        stored = self.artifacts.read(task.transcript)
        rounds = rounds_of(attack, setup)
        events = tuple(e for e in unpack(stored.document, stored.tensors) if in_reach(e, rounds))
        planting = None
        if isinstance(attack, MaliciousServer):
            planting = plant(setup, stack, attack, position=position, transcript=events)
            setup, events = planting.setup, planting.events
            document["notes"].extend(planting.notes)
            if planting.blocked:
                document["status"], document["reason"] = "blocked", planting.blocked
                document["seen"] = ledger_of(f"{position}, {planting.sender}", None, attack)
                return None
        view, seen_events = see(setup, attack, position, events, document)
        document["seen"] = ledger_of(f"{position}, {planting.sender}" if planting else position, view, attack)
        if view is None:
            return None
        challenge, clients = self._challenge(task.seed), self._clients(task.seed)
        released = self.artifacts.read(task.honest).tensors["released"].to(setup.device)
        held = truth(setup, stack, attack, events=seen_events, released=released, challenge=challenge, clients=clients)
        if planting:
            held = planting.told(held)
        else:
            held = replace(held, masking=self._masking(task, setup, released), class_mix=setup.class_mix())
        facts = public_facts(
            setup,
            stack,
            attack,
            challenge=challenge,
            clients=clients,
            labels=labels_behind(held.behind),
            federate=self._shadows(task, stack, attack.knows()),
            position=position,
        )
        view = with_counts(view, held.behind) if Knowledge.COUNTS in attack.knows() else view
        # Like the key, draws do not depend on the label: one attack under two labels has one result.
        place = attack.name if position == attack.threat.position else f"{attack.name}@{position}"
        evidence = attack.run(view, facts, generator=generator(setup.seed, "attack", attack.name, place))
        evidence = planting.owing(evidence) if planting else evidence
        return _judge(attack.judge).measure(evidence, held)

    def _observing(
        self,
        task: Cell,
        setup: FederationSetup,
        stack: tuple[Defense, ...],
        adversary: Adversary,
        document: dict[str, Any],
    ) -> Judgement | None:
        """What an adversary that took part concludes from what it saw of the federation that it attacked."""
        attacked, stored = self.artifacts.read(task.attacked), self.artifacts.read(task.transcript)
        document["compromised"] = attacked.document["compromised"]
        population = population_of(setup, adversary)
        position = coalition_position(adversary, population)
        rounds = rounds_of(adversary, setup)
        events = tuple(e for e in unpack(stored.document, stored.tensors) if in_reach(e, rounds))
        view, seen_events = see(setup, adversary, position, events, document)
        document["seen"] = ledger_of(briefly(position), view, adversary)
        if view is None:
            return None
        challenge = self._challenge(task.seed)
        released = attacked.tensors["released"].to(setup.device)
        held = truth(
            setup, stack, adversary, events=seen_events, released=released, challenge=challenge, population=population
        )
        federate = self._shadows(task, stack, adversary.knows())
        facts = public_facts(setup, stack, adversary, challenge=challenge, federate=federate)
        memory = {
            name.removeprefix("memory/"): value
            for name, value in attacked.tensors.items()
            if name.startswith("memory/")
        }
        random = generator(setup.seed, "attack", adversary.name, "observe")
        evidence = adversary.observe(view, facts, memory, generator=random)
        return _judge(adversary.judge).measure(evidence, held)

    def _active(self, task: Cell, setup: FederationSetup, adversary: Adversary, document: dict[str, Any]) -> Judgement:
        """Compare the attacked federation with the honest one of the same seed."""
        honest, attacked = self.artifacts.read(task.honest), self.artifacts.read(task.attacked)
        document["seen"] = {
            "position": f"in the place of {attacked.document['compromised']:.1%} of the identities",
            "events": [],
            "knowledge": sorted(k.value for k in adversary.knows()),
        }
        document["compromised"] = attacked.document["compromised"]
        # the honest federation knows of no probe: its released model is asked here
        asked = hits(setup.model, honest.tensors["released"], adversary.probe(setup.split.test, setup.info))
        nets = [setup.model.instance(stored.tensors["released"]) for stored in (honest, attacked)]
        return _judge(adversary.judge).compare(
            replace(outcome_of(honest.document, honest.tensors), probe=asked, net=nets[0]),
            replace(outcome_of(attacked.document, attacked.tensors), net=nets[1]),
            setup.split.test,
            setup.info,
            adversary.goal(),
        )


def _judge(name: str) -> Judge:
    judge: Any = get("judges", name)()
    if not isinstance(judge, Judge):
        raise TypeError(f"{name} is not a Judge")
    return judge
