"""Whether a stack of defenses can work, decided before anything trains by folding the payload kind through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, Setting
from fedsec.protocol.view import EAVESDROPPER


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a stack cannot work.

    Attributes:
        found: what stands in the stack.
        why: why that cannot work.
        instead: what would.
    """

    found: str
    why: str
    instead: str


def acts_on_arrival(defense: Defense) -> bool:
    """Whether its work on updates is done by the server when they arrive, not by clients before upload."""
    return bool(getattr(defense, "acts_on_arrival", defense.implements("receive")))


def seals(defense: Defense) -> bool:
    """Whether it changes updates at the client."""
    return defense.implements("seal") and not acts_on_arrival(defense)


def holders_of(stack: Sequence[Defense]) -> frozenset[str]:
    """Who reads the aggregate: the server, or the holders of the last sealing stage."""
    sealing = [defense for defense in stack if defense.emits not in (None, Kind.PLAIN)]
    return sealing[-1].holders if sealing and sealing[-1].holders else frozenset({"server"})


def aggregator(stack: Sequence[Defense]) -> Defense | None:
    """The stack's own aggregation rule, if it has one."""
    rules = [defense for defense in stack if defense.implements("aggregate")]
    return rules[0] if rules else None


def check_stack(stack: Sequence[Defense], setting: Setting, *, server_optimizer: str = "mean") -> list[Refusal]:
    """Fold the payload kind through `seal`, arrival, `aggregate` and `open`.

    Args:
        stack: in the order in which clients apply it.
        setting: the federation.
        server_optimizer: ``mean`` for plain averaging, else the optimizer's name.

    Returns:
        Every reason why the stack cannot work; empty if it can.
    """
    refusals: list[Refusal] = []
    kind, sealer = Kind.PLAIN, ""
    for defense in stack:
        if not seals(defense):
            continue
        if kind not in defense.accepts:
            refusals.append(_unreadable(defense.name, "before upload", sealer, kind, _reorder(defense.name, sealer)))
        if defense.emits is not None:
            kind, sealer = defense.emits, defense.name
    for defense in stack:
        if acts_on_arrival(defense) and kind not in defense.accepts:
            instead = "set `enforced_by: client` (it then binds honest clients only)"
            instead = instead if hasattr(defense, "enforced_by") else f"drop {defense.name} or {sealer}"
            refusals.append(_unreadable(defense.name, "at the server, on arrival", sealer, kind, instead))
    for defense in stack:
        if defense.implements("preaggregate") and kind not in defense.accepts:
            where, instead = "to mix them", f"drop {defense.name} or {sealer}"
            refusals.append(_unreadable(defense.name, where, sealer, kind, instead))
    rules = [defense for defense in stack if defense.implements("aggregate")]
    if len(rules) > 1:
        names = ", ".join(rule.name for rule in rules)
        refusals.append(
            Refusal(
                found=f"{len(rules)} aggregation rules: {names}",
                why="a round has one rule that turns the cohort into one update",
                instead="keep one of them and measure the others as stacks of their own",
            )
        )
    refusals.extend(
        _unreadable(
            rule.name,
            "to compare single updates",
            sealer,
            kind,
            "use a rule that only needs sums (leave the rule out: the mean), clip at the clients, "
            f"or measure {rule.name} and {sealer} as two stacks",
        )
        for rule in rules
        if kind not in rule.accepts
    )
    for defense in reversed(stack):
        if defense.emits is not None and defense.implements("open"):
            kind = Kind.PLAIN
        elif defense.implements("open") and kind not in defense.accepts:
            refusals.append(_unreadable(defense.name, "on the aggregate", sealer, kind, _reorder(defense.name, sealer)))
    if kind != Kind.PLAIN:
        refusals.append(Refusal(found=sealer, why=f"nobody opens the {kind} aggregate", instead=f"drop {sealer}"))
    if "server" not in holders_of(stack) and server_optimizer != "mean":
        refusals.append(
            Refusal(
                found=f"the server optimizer {server_optimizer} behind {sealer}",
                why="the server never reads the aggregate, so it cannot apply an optimizer to it",
                instead="use `algorithm.server: {optimizer: sgd, learning_rate: 1.0}` (plain averaging)",
            )
        )
    for defense in stack:
        refusals.extend(
            Refusal(found=f"{defense.name}: {found}", why="it cannot work in this federation", instead=instead)
            for found, instead in defense.problems(setting)
        )
    return refusals


def _unreadable(name: str, where: str, sealer: str, kind: Kind, instead: str) -> Refusal:
    return Refusal(
        found=f"{name} behind {sealer}",
        why=f"{name} must read plain updates {where}, and {sealer} has made them {kind}: only sums can be formed",
        instead=instead,
    )


def _reorder(name: str, sealer: str) -> str:
    return f"put {name} before {sealer}"


def opening_coalitions(stack: Sequence[Defense]) -> list[tuple[str, list[list[str]]]]:
    """For each secret the smallest coalitions that read it: a set computation on who holds what.

    Returns:
        ``(secret, coalitions)`` pairs; a coalition is a sorted list of roles.
    """
    sealing = [defense for defense in stack if defense.emits not in (None, Kind.PLAIN)]
    holders = sorted(sealing[-1].holders) if sealing else []
    hearers = ("server", EAVESDROPPER)
    upload = [sorted({hearer, *holder}) for holder in ([[h] for h in holders] or [[]]) for hearer in hearers]
    if sealing and sealing[-1].upload_openers:
        upload = [list(coalition) for coalition in sealing[-1].upload_openers]
    # A server that reads the aggregate sends the next model in clear, and two in a row tell every client the aggregate.
    aggregate = [[holder] for holder in holders]
    if not holders or "server" in holders:
        aggregate = [["server"], ["client"], [EAVESDROPPER]]
    noisy = [defense.name for defense in stack if defense.perturbs]
    suffix = f" (as sent, after {', '.join(noisy)})" if noisy else ""
    left = sealing[-1].open_share if sealing else 0.0
    open_part = [(f"{left:.0%} of the coordinates of one client's update", [[hearer] for hearer in hearers])]
    return [
        (f"one client's update{suffix}", upload),
        *(open_part if left else []),
        ("the aggregate of a round", aggregate),
        ("the released model", [["outsider"]]),
    ]
