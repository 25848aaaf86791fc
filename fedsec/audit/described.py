"""What attacks and stacks say of themselves, as rows of the document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fedsec.config.schema import AttackEntry, StackEntry
from fedsec.protocol.parties import Adversary
from fedsec.protocol.stage import Defense, Setting
from fedsec.threat import ORACLES


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


def stack_row(entry: StackEntry, setting: Setting, claims: list[dict[str, Any]], *, trained: bool) -> dict[str, Any]:
    """One of ``stacks`` of the document.

    Args:
        entry: the stack.
        setting: of the federation.
        claims: what its defenses claim.
        trained: whether every federation under it finished.
    """
    return {
        "label": entry.label,
        "defenses": [_defense_row(d) for d in entry.defenses],
        "claims": claims,
        "status": "trained" if trained else "error",
        "breakdown": breakdown(entry.defenses, setting),
        "assumed": assumed(entry.defenses, setting),
    }


def breakdown(stack: Sequence[Defense], setting: Setting) -> float | None:
    """Largest share of malicious updates for which every rule of a stack that proves a bound does; ``None``: no proof.

    A stack is as strong as the rule that stops working first.
    """
    shares = [share for defense in stack if (share := defense.breakdown(setting)) is not None]
    return min(shares, default=None)


def assumed(stack: Sequence[Defense], setting: Setting) -> float | None:
    """Share of malicious updates that a stack's rules are set up for, by their parameters ``f`` or ``fraction``."""
    shares = []
    for defense in stack:
        parameters = dict(defense.parameters())
        if not any(defense.implements(hook) for hook in ("aggregate", "preaggregate")):
            continue
        if isinstance(parameters.get("f"), int):
            shares.append(parameters["f"] / setting.cohort)
        elif isinstance(parameters.get("fraction"), float):
            shares.append(parameters["fraction"])
    return min(shares, default=None)
