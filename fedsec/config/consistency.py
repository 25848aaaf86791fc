"""What is right by itself and cannot work together."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable

from fedsec.config.draft import Draft
from fedsec.config.entries import AttackDraft, Entries
from fedsec.config.metrics import SEVERITY, UTILITIES, metrics_of
from fedsec.config.sections import Severity
from fedsec.parameters import shown
from fedsec.registry import closest
from fedsec.threat import Knowledge, ThreatModel

_EXAMPLES = ("server", "client:0", "key-holder", "helper:0", "eavesdropper", "outsider")
_PARTY = re.compile(r"server|key-holder|helper:\d{1,3}|outsider|eavesdropper|client:(\d{1,9})")
_BANDS = typing.get_args(Severity)


def check_consistency(draft: Draft, entries: Entries) -> None:
    """Report every contradiction between sections that are right by themselves."""
    _check_population(draft)
    _check_algorithm(draft)
    for attack in entries.attacks:
        _check_position(draft, attack)
        if attack.plugin.declared is not None and attack.plugin.declared.threat is not None:
            check_knowledge(draft, attack.plugin.declared.threat, attack.plugin.path)
    _check_gates(draft, entries)
    _check_seeds(draft)


def _check_population(draft: Draft) -> None:
    clients, cohort = draft.at("federation.clients"), draft.given("federation.clients_per_round", None)
    if draft.sound("federation.clients", "federation.clients_per_round") and cohort is not None and cohort > clients:
        hint = f"Use at most {clients}, or leave it out for all"
        draft.report("federation.clients_per_round", f"there are only {clients} clients", found=str(cohort), hint=hint)


def _check_algorithm(draft: Draft) -> None:
    at = "federation.algorithm"
    if not draft.sound(at, "federation.local"):
        return
    name, proximal = draft.given(f"{at}.name", "fedavg"), draft.given(f"{at}.proximal", 0.0)
    if name == "fedprox" and proximal == 0:
        draft.report(at, "fedprox needs its proximal weight", hint="Add `proximal: 0.01`; with 0 it is fedavg")
    if name != "fedprox" and proximal > 0:
        draft.report(f"{at}.proximal", f"{name} has no proximal term", found=str(proximal), hint="Use `name: fedprox`")
    if name != "fedsgd":
        return
    rules: tuple[tuple[str, object, Callable[[object], bool]], ...] = (
        ("epochs", 1, lambda value: value == 1),
        ("batch_size", None, lambda value: value is None),
        ("optimizer", "sgd", lambda value: value == "sgd"),
        ("max_steps", None, lambda value: value in (None, 1)),
    )
    for key, only, fits in rules:
        value = draft.given(f"federation.local.{key}", only)
        if not fits(value):
            hint = f"Use `{key}: {'null' if only is None else only}`, or the algorithm fedavg"
            expected = "fedsgd is one plain step on all of a client's examples"
            draft.report(f"federation.local.{key}", expected, found=shown(value), hint=hint)


def _check_position(draft: Draft, attack: AttackDraft) -> None:
    path = f"{attack.plugin.path}.position"
    if not attack.position or attack.plugin.declared is None:
        return
    if attack.is_active:
        hint = "Leave it out; its parameters say how many clients it controls"
        draft.report(
            path, f"{attack.plugin.name} takes the place of clients and has no position to read from", hint=hint
        )
        return
    check_coalition(draft, attack.position, path)


def check_coalition(draft: Draft, position: str, path: str) -> None:
    """Report what is wrong with a position such as ``server+client:3``."""
    parties = [part.strip() for part in position.split("+")]
    clients = draft.at("federation.clients")
    for party in parties:
        match = _PARTY.fullmatch(party)
        if match is None:
            hint = closest(party, _EXAMPLES) or "As in server or server+client:3"
            expected = f"expected {', '.join(_EXAMPLES[:-1])} or {_EXAMPLES[-1]}, joined by +"
            draft.report(path, expected, found=shown(party), hint=hint)
            return
        if match.group(1) and draft.sound("federation.clients") and int(match.group(1)) >= clients:
            draft.report(path, f"clients are numbered from 0 to {clients - 1}", found=shown(party))
            return
    if len(set(parties)) < len(parties):
        draft.report(path, "a party stands in the coalition twice", found=shown(position))
    elif "outsider" in parties and len(parties) > 1:
        draft.report(path, "an outsider adds nothing to a coalition", found=shown(position), hint="Leave it out")


def check_knowledge(draft: Draft, threat: ThreatModel, path: str) -> None:
    """Report knowledge that an attack assumes and that the federation sets nothing aside for."""
    needs = (
        (Knowledge.AUXILIARY_DATA, "auxiliary", "public examples of the population"),
        (Knowledge.CANDIDATES, "holdout", "examples that no client holds, as non-members"),
        (Knowledge.CLIENT_CANDIDATES, "holdout", "examples that no client holds, to make up other clients from"),
    )
    if not draft.sound("federation.dataset"):
        return
    for knowledge, key, what in needs:
        if knowledge in threat.knowledge and not draft.given(f"federation.dataset.{key}", 0):
            hint = f"Write the dataset as a mapping with `{key}: 200` or more"
            draft.report(path, f"this attack needs {what}, and federation.dataset.{key} is 0", hint=hint)


def _check_seeds(draft: Draft) -> None:
    seeds = draft.given("seeds", 1)
    if draft.sound("seeds") and isinstance(seeds, list) and len(set(seeds)) < len(seeds):
        draft.report("seeds", "the same seed twice is one observation, not two", found=shown(seeds))


def _check_gates(draft: Draft, entries: Entries) -> None:
    gates = draft.given("gates", [])
    attacks = {attack.label: attack for attack in entries.attacks if attack.label}
    stacks = [stack.label for stack in entries.stacks if stack.label]
    for index, gate in enumerate(gates if isinstance(gates, list) else ()):
        path = f"gates[{index}]"
        if not isinstance(gate, dict):
            continue
        for key, labels in (("attack", list(attacks)), ("stack", stacks)):
            label = gate.get(key, "*")
            if draft.sound(f"{path}.{key}") and label != "*" and label not in labels:
                hint = closest(label, labels) or f"Labels: {', '.join(labels)}"
                draft.report(f"{path}.{key}", f"no {key} has this label", found=shown(label), hint=hint)
        if draft.sound(f"{path}.metric", f"{path}.attack", f"{path}.below", f"{path}.above"):
            chosen = [attacks[gate["attack"]]] if gate.get("attack", "*") != "*" else list(attacks.values())
            _check_metric(draft, gate.get("metric", SEVERITY), chosen, path)
            _check_bound(draft, gate, path)


def _check_metric(draft: Draft, metric: str, attacks: list[AttackDraft], path: str) -> None:
    if metric in (SEVERITY, *UTILITIES):
        return
    # What an attack without a declaration measures is unknown, and its name is reported already.
    if any(attack.plugin.declared is None for attack in attacks):
        return
    known = [metrics_of(a.plugin.declared.judge) for a in attacks if a.plugin.declared is not None]
    if not any(metrics.may_have(metric) for metrics in known):
        names = sorted({name for metrics in known for name in metrics.names})
        choices = [SEVERITY, *UTILITIES, *names]
        hint = closest(metric, choices) or f"Metrics: {', '.join(choices)}"
        draft.report(f"{path}.metric", "no attack of this gate is measured by it", found=shown(metric), hint=hint)


def _check_bound(draft: Draft, gate: dict[str, object], path: str) -> None:
    below, above = gate.get("below"), gate.get("above")
    is_severity = gate.get("metric", SEVERITY) == SEVERITY
    if (below is None) == (above is None):
        draft.report(path, "a gate has one bound: `below` or `above`", hint="As in `below: high`")
    elif is_severity and not isinstance(below, str):
        draft.report(path, f"a gate on severity is `below` one of {' | '.join(_BANDS)}", hint="As in `below: high`")
    elif not is_severity and isinstance(below, str):
        hint = "Give a number, or leave `metric` out for severity"
        draft.report(f"{path}.below", "the bound of a measurement is a number", found=shown(below), hint=hint)
