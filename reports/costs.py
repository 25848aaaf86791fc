"""What each stack costs, what it claims, and what the audit could not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .charts import bar
from .document import Audit, drop_of, number_of, rows, score_of, table
from .format import MISSING, brief, duration, interval, pairs, points, quantity, ratio, significant, size, value_text
from .overview import Anchors, status_words
from .severity import measured

CLAIM_ORDER = ("epsilon", "delta", "unit", "adjacency", "sampler", "accountant")
LONGEST_REASON = 4000
"""Characters kept of a reason; the end of a traceback says most."""


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A number with the length of its bar."""

    text: str
    more: str
    length: float


@dataclass(frozen=True, kw_only=True)
class StackCost:
    """One row of the table of utility and cost."""

    stack: str
    anchor: str
    defenses: tuple[Mapping[str, Any], ...]
    status: str
    accuracy: Meter
    drop: str
    drop_span: str
    loss: str
    upload: Meter
    download: str
    seconds: Meter
    remarks: tuple[str, ...]
    line: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a defense claims, with everything that gives the number its meaning."""

    stack: str
    defense: str
    terms: tuple[tuple[str, str], ...]
    measured: str
    broken: bool


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A pair without a number, and why."""

    attack: str
    stack: str
    anchor: str
    status: str
    first: str
    detail: str


def costs(audit: Audit, anchors: Anchors) -> tuple[StackCost, ...]:
    """Utility and cost of every stack."""
    used = audit.utilities.values()
    largest = {key: max((number_of(u, key) or 0.0 for u in used), default=0.0) for key in _BARS}
    return tuple(_cost(audit, anchors, stack, largest) for stack in audit.stacks)


_BARS = ("upload_bytes_per_client_round", "seconds_per_round")


def _cost(audit: Audit, anchors: Anchors, stack: str, largest: Mapping[str, float]) -> StackCost:
    entry, used = audit.stacks[stack], audit.utilities.get(stack, {})
    name, accuracy, unit = score_of(used)
    value = number_of(accuracy, "value")
    lost = table(used, "accuracy_drop")
    upload, seconds = (number_of(used, key) for key in _BARS)
    return StackCost(
        stack=stack,
        anchor=anchors.stack(stack),
        defenses=tuple(rows(entry, "defenses")),
        status=str(entry.get("status") or ""),
        accuracy=Meter(
            text=quantity(value, unit) if name == "accuracy" else f"{name} {quantity(value, unit)}",
            more=interval(number_of(accuracy, "low"), number_of(accuracy, "high"), unit),
            length=bar(value, 1.0) if unit == "share" else 0.0,
        ),
        drop=points(drop_of(used), unit),
        drop_span=loss_span(number_of(lost, "low"), number_of(lost, "high"), unit),
        loss=significant(number_of(used, "loss")),
        upload=Meter(text=size(upload), more=_factor(used, "ratio_upload"), length=bar(upload, largest[_BARS[0]])),
        download=size(number_of(used, "download_bytes_per_client_round")),
        seconds=Meter(
            text=duration(seconds), more=_factor(used, "ratio_seconds"), length=bar(seconds, largest[_BARS[1]])
        ),
        remarks=tuple(_remarks(used)),
        line=", ".join(_spec(d) for d in rows(entry, "defenses")),
    )


def dearest(audit: Audit, anchors: Anchors) -> tuple[tuple[str, str, str, str], ...]:
    """The highest price among the stacks in accuracy, bytes and time: ``(name, text, stack, anchor)`` each."""
    defended = {s: audit.utilities[s] for s in audit.stacks if s != audit.baseline and s in audit.utilities}
    units = {s: score_of(used)[2] for s, used in defended.items()}
    made = []
    for name, key in _PRICES:
        numbers = {s: drop_of(used) if key == "accuracy_drop" else number_of(used, key) for s, used in defended.items()}
        known = {s: v for s, v in numbers.items() if v is not None}
        if known:
            top = max(known, key=lambda s: known[s])
            text = points(known[top], units[top]) if key == "accuracy_drop" else ratio(known[top])
            made.append((name, text, top, anchors.stack(top)))
    return tuple(made)


_PRICES = (
    ("Largest loss of accuracy", "accuracy_drop"),
    ("Largest upload", "ratio_upload"),
    ("Slowest round", "ratio_seconds"),
)


def claims(audit: Audit) -> tuple[Claim, ...]:
    """The claims of all stacks; what makes an epsilon mean something comes first."""
    made = []
    for stack, entry in audit.stacks.items():
        for claim in rows(entry, "claims"):
            known = [k for k in CLAIM_ORDER if k in claim]
            others = [k for k in claim if k not in (*CLAIM_ORDER, "defense")]
            terms = tuple((k.replace("_", " "), _claim_text(k, claim[k])) for k in (*known, *others))
            said, broken = _audited(audit, stack, claim)
            defense = str(claim.get("defense") or "")
            made.append(Claim(stack=stack, defense=defense, terms=terms, measured=said, broken=broken))
    return tuple(made)


LOWER_BOUND = "epsilon_lower_bound"


def _audited(audit: Audit, stack: str, claim: Mapping[str, Any]) -> tuple[str, bool]:
    """The largest lower bound that an audit found on this stack, and whether it breaks the claimed epsilon."""
    found = {a: m for a in audit.attacks if (m := table(table(audit.finding(a, stack), "metrics"), LOWER_BOUND))}
    bounds = {a: v for a, m in found.items() if (v := number_of(m, "value")) is not None}
    claimed = number_of(claim, "epsilon")
    if not bounds or "epsilon" not in claim:
        return "", False
    worst = max(bounds, key=lambda a: bounds[a])
    ceiling = number_of(found[worst], "ceiling")
    most = f"; this test cannot show more than {significant(ceiling)}" if ceiling is not None else ""
    broken = claimed is not None and bounds[worst] > claimed
    return f"at least {significant(bounds[worst])} at 95% ({worst}){most}", broken


def gaps(audit: Audit, anchors: Anchors) -> tuple[Gap, ...]:
    """Every pair that was not measured: what failed first, then what did not run, then what cannot be."""
    order = ("error", "not run", "not applicable", "blocked")
    made = []
    for attack in audit.attacks:
        for stack in audit.stacks:
            finding = audit.finding(attack, stack)
            if measured(finding):
                continue
            status = status_words(finding)
            reason = str(finding.get("reason") or _cell_reason(audit, attack, stack) or "no reason was recorded")
            first, many = brief(reason)
            detail = reason[-LONGEST_REASON:] if many or len(reason) > len(first) else ""
            made.append(Gap(attack=attack, stack=stack, anchor=anchors.pair(attack, stack), status=status,
                            first=first, detail=detail))  # fmt: skip
    return tuple(sorted(made, key=lambda gap: order.index(gap.status) if gap.status in order else -1))


def _cell_reason(audit: Audit, attack: str, stack: str) -> str:
    said = (str(c.get("reason") or "") for c in audit.cells(attack) if str(c.get("stack")) == stack)
    return next((reason for reason in said if reason), "")


def loss_span(low: float | None, high: float | None, unit: str) -> str:
    """The interval of a loss as one of signed changes, the worse end first."""
    if low is None or high is None:
        return ""
    return f"{points(high, unit).removesuffix(' points')} to {points(low, unit).removesuffix(' points')}"


def _claim_text(name: str, value: Any) -> str:
    if value is None:
        return "no finite bound" if name == "epsilon" else MISSING
    return value_text(value)


def _spec(defense: Mapping[str, Any]) -> str:
    parameters = table(defense, "parameters")
    return f"{defense.get('name')} ({pairs(parameters)})" if parameters else str(defense.get("name"))


def _factor(used: Mapping[str, Any], key: str) -> str:
    value = number_of(used, key)
    return "" if value is None else ratio(value)


def _remarks(used: Mapping[str, Any]) -> list[str]:
    said = [f"{count} uploads rejected: {why}" for why, count in table(used, "rejected_uploads").items()]
    if used.get("dropouts"):
        said.append(f"{used['dropouts']} dropouts")
    told = table(used, "diagnostics")
    shared = {name: number_of(told, name) for name in told if name.startswith("share.")}
    said += [f"{name.replace('_', ' ')} {value_text(value)}" for name, value in told.items() if name not in shared]
    return said + _of_some_clients(shared)


def _of_some_clients(shared: Mapping[str, float | None]) -> list[str]:
    """What becomes of the clients that run a local defense which not all clients run, beside the others."""
    if "share.within" not in shared:
        return []
    said = [f"{quantity(shared['share.within'], 'share')} of the clients run the local defense"]
    for what, words, unit in (("dropped", "dropped", "share"), ("score", "mean suspicion", "")):
        inside, outside = (quantity(shared.get(f"share.{who}.{what}"), unit) for who in ("within", "outside"))
        if (inside, outside) != (MISSING, MISSING):
            said.append(f"{words}: {inside} of these, {outside} of the others")
    return said
