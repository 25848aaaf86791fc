"""What an attack's findings come to: what helps, at which price, and what to mind when reading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .document import Audit, headline, number_of, texts
from .format import among, interval, quantity
from .overview import price, status_words
from .severity import advantage, control_failed, needs_adaptive_caveat, rank, settled


def ranged(metric: Mapping[str, Any], unit: str, prefix: str = "") -> str:
    """The value of a metric with its interval; ``prefix`` picks its advantage instead."""
    keys = (prefix, f"{prefix}_low", f"{prefix}_high") if prefix else ("value", "low", "high")
    value, low, high = (number_of(metric, key) for key in keys)
    if value is None:
        return ""
    span = interval(low, high, unit)
    return quantity(value, unit) + (f" ({span})" if span else "")


def helps(audit: Audit, attack: str, found: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Which tested stack lowered the attack most, at what cost, and which made it worse."""
    plain = found.get(audit.baseline) if audit.baseline is not None else None
    control = advantage(plain) if plain is not None else None
    if plain is None or control is None:
        return ("The audit has no measured control without defenses, so no stack can be said to help.",)
    if control_failed(audit, attack):
        said = ["The attack failed on its own undefended control: that it fails elsewhere shows nothing."]
    else:
        said = _lowered(audit, control, found)
    for stack, finding in found.items():
        gain = advantage(finding)
        if stack != audit.baseline and gain is not None and gain[1] > control[2]:
            said.append(
                f"It does more harm on {stack}: {_headline_text(finding)}, "
                f"against {_headline_text(plain)} without defenses."
            )
    return tuple(said)


def _lowered(audit: Audit, control: tuple[float, float, float], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = []
    blocked = [s for s, f in found.items() if f.get("status") == "blocked"]
    if blocked:
        said.append(f"Blocked on {', '.join(blocked)}: its position cannot read what it needs there.")
    gains = {s: g for s, f in found.items() if s != audit.baseline and s not in blocked and (g := advantage(f))}
    if not gains:
        return [*said, "No stack of defenses was measured against it."]
    best = min(gains, key=lambda s: (gains[s][2], gains[s][0]))
    if gains[best][2] >= control[1]:
        return [*said, "No measured stack lowered it by more than the intervals allow for."]
    cost = price(audit, best)
    before = "" if audit.baseline is None else f" from {_headline_text(found[audit.baseline])}"
    said.append(
        f"{best} lowered it most,{before} to {_headline_text(found[best])}" + (f". Its price: {cost}." if cost else ".")
    )
    alike = [s for s in gains if s != best and gains[s][1] <= gains[best][2]]
    if alike:
        said.append(f"Its interval overlaps with {', '.join(alike)}: which of them is best is not established.")
    if rank(found[best].get("severity")) <= rank("medium"):
        said.append(f"Even so it remains {found[best].get('severity')}.")
    return said


def _headline_text(finding: Mapping[str, Any]) -> str:
    _, metric = headline(finding)
    return ranged(metric, str(metric.get("unit") or ""))


def caveats(audit: Audit, attack: str, found: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What must be minded when reading the numbers of an attack."""
    said = []
    if control_failed(audit, attack):
        said.append("† The attack failed on the undefended control of this audit, so its low numbers are no evidence.")
    naive = [s for s in found if needs_adaptive_caveat(audit, attack, s)]
    if naive:
        said.append(
            "‡ Not adaptive: this attack does not use its knowledge of the defense; one that does may do better "
            f"(on {among(naive, audit.stacks)})."
        )
    missing = [f"{s} ({status_words(f)})" for s, f in found.items() if not settled(f)]
    if missing:
        said.append(f"No result on {', '.join(missing)}.")
    notes: dict[str, list[str]] = {}
    for stack, finding in found.items():
        for note in texts(finding, "notes"):
            notes.setdefault(note, []).append(stack)
    said += [
        n if len(on) == len(found) else f"{n.rstrip('.')} (on {among(on, audit.stacks)})." for n, on in notes.items()
    ]
    return tuple(said)
