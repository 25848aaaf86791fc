"""The Markdown summary: verdict, matrix, what to know of each attack, costs and gaps; fits a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import costs, ledger, overview
from .document import Audit, read, rows, table
from .findings import sections
from .format import among
from .images import Budget
from .overview import Anchors, Cell
from .robustness import robustness
from .selftests import selftests
from .strongest import Found, strongest

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")
_EMPTY = "—"


def render(document: Mapping[str, Any]) -> str:
    """Render a result file as GitHub-flavoured Markdown, without images.

    Args:
        document: the parsed ``audit.json``.

    Raises:
        DataError: if the document is of another schema.
    """
    audit = read(document)
    anchors = Anchors(audit)
    parts = [
        *_verdict(audit),
        *_matrix(audit, anchors),
        *_strongest(audit, anchors),
        *_robustness(audit, anchors),
        *_findings(audit, anchors),
        *_costs(audit, anchors),
        *_openings(audit),
        *_claims(audit),
        *_selftests(audit),
        *_gaps(audit, anchors),
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: Any) -> str:
    """Foreign text as Markdown that says just that: no markup, no table cell, no tag, one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("&", "&amp;")


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cell or _EMPTY for cell in line)} |" for line in lines)


def _verdict(audit: Audit) -> list[str]:
    raw, verdict = audit.raw, table(audit.raw, "verdict")
    parts = [f"# {escape(raw.get('title') or raw.get('name') or 'Audit')}"]
    status = escape(verdict.get("status") or "no gates").capitalize()
    counts = ", ".join(f"{count} {name}" for name, count in overview.coverage(audit) if count)
    state = "complete" if raw.get("complete") else "**incomplete**"
    worst = f"; worst severity **{escape(verdict['worst'])}**" if verdict.get("worst") else ""
    parts.append(f"**{status}**{worst}. The audit is {state}: {counts or 'no cells'}.")
    if verdict.get("sentence"):
        parts.append(escape(verdict["sentence"]))
    gates = [
        f"- {'met' if gate.get('met') else '**violated**'}: {escape(gate.get('gate', ''))}"
        + (f" (found {escape(gate['found'])})" if gate.get("found") else "")
        for gate in rows(verdict, "gates")
    ]
    return [*parts, "\n".join(gates)] if gates else parts


def _matrix(audit: Audit, anchors: Anchors) -> list[str]:
    groups = overview.matrix(audit, anchors)
    if not groups or not audit.stacks:
        return ["The audit holds no findings."]
    body = [
        [escape(row.label) + _aside(row.metric, row.compromised), *map(_cell, row.cells)]
        for group in groups
        for row in group.rows
    ]
    legend = (
        "Critical, High, Medium, Low, None: severity, on the upper end of the interval. "
        "† failed on its undefended control: no evidence. ‡ only a non-adaptive attack."
    )
    return ["## Attacks against stacks", _table(["attack", *map(escape, audit.stacks)], body), legend]


def _aside(*words: str) -> str:
    said = ", ".join(escape(word) for word in words if word)
    return f" ({said})" if said else ""


def _strongest(audit: Audit, anchors: Anchors) -> list[str]:
    found = strongest(audit, anchors)
    if found is None:
        return []
    head = ["stack", *map(escape, found.kinds), "bound proved up to", "accuracy with no attack", "time a round"]
    body = [
        [escape(row.stack), *map(_worst, row.found), row.bound, escape(row.drop), escape(row.seconds)]
        for row in found.rows
    ]
    return ["## The strongest attack found on each stack", _table(head, body)]


def _robustness(audit: Audit, anchors: Anchors) -> list[str]:
    parts = []
    for norm in robustness(audit, anchors):
        head = ["stack", *("no attack" if size == "0" else f"up to {size}" for size in norm.sizes), "attacks"]
        body = [
            [
                escape(row.stack) + (" ¶" if row.doubted else ""),
                *(f"{value} ({span})" if span else value for value, span in row.points),
                escape(", ".join(row.attacks)),
            ]
            for row in norm.rows
        ]
        parts += [f"### {escape(norm.norm)}: {escape(norm.about)}", _table(head, body)]
    said = "The worst case of every input over all attacks. ¶ hides its gradients: the figures are too high."
    return ["## Robust accuracy", said, *parts] if parts else []


def _worst(found: Found | None) -> str:
    if found is None:
        return ""
    share = f"{found.share} compromised" if found.share else ""
    return f"{escape(found.attack)} {_cell(found.cell)}{_aside(f'at least {found.least}', share)}"


def _cell(cell: Cell) -> str:
    if not cell.letter:
        return f"_{escape(cell.value)}_"
    span = f" ({escape(cell.span)})" if cell.span else ""
    return f"**{cell.letter}** {escape(cell.value)}{span}" + (f" {cell.marks}" if cell.marks else "")


def _findings(audit: Audit, anchors: Anchors) -> list[str]:
    parts = []
    for section in sections(audit, anchors, Budget(0)):
        lines = [f"### {escape(section.label)}"]
        if section.entry.get("story"):
            lines.append(escape(section.entry["story"]))
        said = [f"- {escape(s)}" for s in (*section.helps, *section.caveats)]
        parts += [*lines, "\n".join(said)] if said else lines
    return ["## Findings", *parts] if parts else []


def _costs(audit: Audit, anchors: Anchors) -> list[str]:
    body = [
        [
            escape(c.stack), _with_more(c.accuracy), escape(c.drop),
            _with_more(c.upload), c.download, _with_more(c.seconds),
        ]
        for c in costs.costs(audit, anchors)
    ]  # fmt: skip
    head = ["stack", "accuracy", "change", "upload per client and round", "download", "time a round"]
    return ["## Utility and cost", _table(head, body)] if body else []


def _with_more(meter: costs.Meter) -> str:
    return escape(f"{meter.text} ({meter.more})" if meter.more else meter.text)


def _openings(audit: Audit) -> list[str]:
    body = [
        [escape(secret), escape(" or ".join(o.coalitions) or "nobody"), escape(among(o.stacks, audit.stacks))]
        for secret, ways in ledger.openings(audit)
        for o in ways
    ]
    return ["## Who must collude", _table(["secret", "smallest coalitions", "on"], body)] if body else []


def _claims(audit: Audit) -> list[str]:
    body = [
        [escape(c.stack), escape(c.defense), escape(", ".join(f"{name} {text}" for name, text in c.terms))]
        for c in costs.claims(audit)
    ]
    return ["## Claims", _table(["stack", "defense", "claim"], body)] if body else []


def _selftests(audit: Audit) -> list[str]:
    body = [[escape(t.defense), escape(", ".join(t.stacks)), escape(t.verdict)] for t in selftests(audit)]
    return ["## Known answers of the defenses", _table(["defense", "in", "outcome"], body)] if body else []


def _gaps(audit: Audit, anchors: Anchors) -> list[str]:
    body = [[escape(g.attack), escape(g.stack), escape(g.status), escape(g.first)] for g in costs.gaps(audit, anchors)]
    return ["## Not tested", _table(["attack", "stack", "status", "reason"], body)] if body else []
