"""One function decides: the verdict in the report, in ``audit.json`` and the exit code come from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import Any

from fedsec.config.schema import GateEntry

ORDER = ("none", "low", "medium", "high", "critical")


class ExitCode(IntEnum):
    """Exit codes of ``fedsec audit`` and ``fedsec report``."""

    OK = 0
    GATE = 1
    USAGE = 2
    INCOMPLETE = 3
    INTERRUPTED = 130


def coverage(cells: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many cells ended how."""
    counts = Counter(str(cell["status"]) for cell in cells)
    names = ("measured", "blocked", "not applicable", "not run", "error")
    return {**{name.replace(" ", "_"): counts[name] for name in names}, "total": len(cells)}


def _applies(gate: GateEntry, finding: dict[str, Any]) -> bool:
    return gate.attack in ("*", finding["attack"]) and gate.stack in ("*", finding["stack"])


def check_gate(
    gate: GateEntry, findings: Sequence[dict[str, Any]], utilities: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Whether a gate is met by every finding that it speaks of; what was not measured does not meet it."""
    broken: list[str] = []
    if gate.metric in ("accuracy", "accuracy_drop"):
        rows = [u for u in utilities if gate.stack in ("*", u["stack"])]
        for row in rows:
            value = (row.get(gate.metric) or {}).get("value")
            if value is None or not gate.holds(float(value)):
                broken.append(f"{row['stack']}: {'not measured' if value is None else f'{value:.3g}'}")
    else:
        for finding in findings:
            if not _applies(gate, finding) or finding["status"] in ("blocked", "not applicable"):
                continue
            found = _found(gate, finding)
            if found is None or not gate.holds(found):
                shown = finding["severity"] if gate.metric == "severity" else found
                text = finding["status"] if found is None else (shown if isinstance(shown, str) else f"{shown:.3g}")
                broken.append(f"{finding['attack']} on {finding['stack']}: {text}")
    return {"gate": gate.text, "met": not broken, "found": "; ".join(broken[:6])}


def _found(gate: GateEntry, finding: dict[str, Any]) -> float | None:
    if finding["status"] != "measured":
        return None
    if gate.metric == "severity":
        return float(ORDER.index(finding["severity"])) if finding["severity"] in ORDER else None
    value = finding["metrics"].get(gate.metric)
    if value is None:
        return None
    # The end of the interval that is farther from meeting it: a gate is not met by luck.
    return float(value["low"] if gate.above is not None else value["high"])


def judge(
    gates: Sequence[GateEntry],
    findings: Sequence[dict[str, Any]],
    utilities: Sequence[dict[str, Any]],
    cells: Sequence[dict[str, Any]],
    *,
    undefended: str,
    auditors: Collection[str] = (),
) -> dict[str, Any]:
    """The verdict: gates, completeness, the worst severity without a defense and with the best one.

    Labels of ``auditors`` are left out of both: their canaries are made to be found. Gates may name them.
    """
    results = [check_gate(gate, findings, utilities) for gate in gates]
    counts = coverage(cells)
    complete = counts["error"] == 0 and counts["not_run"] == 0 and counts["total"] > 0
    met = all(result["met"] for result in results)
    status = "no gates" if not results else ("gates met" if met else "gates violated")
    findings = [f for f in findings if f["attack"] not in auditors]
    worst = [f["severity"] for f in findings if f["severity"] in ORDER]
    return {
        "status": status,
        "complete": complete,
        "worst": max(worst, key=ORDER.index) if worst else None,
        "sentence": _sentence(findings, undefended=undefended, complete=complete, counts=counts),
        "gates": results,
    }


def _sentence(findings: Sequence[dict[str, Any]], *, undefended: str, complete: bool, counts: dict[str, int]) -> str:
    """What a decision-maker reads first."""
    control = [f for f in findings if f["stack"] == undefended and f["status"] == "measured"]
    serious = [f for f in control if f["severity"] in ("high", "critical")]
    text = f"Without a defense {len(serious)} of {len(control)} attacks are high or critical."
    names = {f["attack"] for f in serious}
    # a stack that was not tried against all of them cannot be the best
    untried = {f["stack"] for f in findings if f["attack"] in names and f["status"] in ("not run", "error")}
    # nor can one that only hides its gradients from them
    hidden = {
        f["stack"] for f in findings if f["attack"] in names and any(not c["passed"] for c in f.get("checks", ()))
    }
    stacks = {f["stack"] for f in findings} - {undefended} - untried - hidden
    if stacks and serious:

        def left(stack: str) -> int:
            return sum(
                f["attack"] in names and f["severity"] in ("high", "critical") for f in findings if f["stack"] == stack
            )

        best = min(sorted(stacks), key=left)
        count = left(best)
        rest = "none of them is left" if count == 0 else f"{count} of them stay high or critical"
        text += f" With the best of the {len(stacks)} stacks that were tried ({best}) {rest}."
    if not complete:
        missing = counts["error"] + counts["not_run"]
        text += f" The audit is incomplete: {missing} of {counts['total']} cells have no result."
    return text


def exit_code(verdict: dict[str, Any], *, interrupted: bool = False) -> ExitCode:
    """The exit code of a verdict; a violated gate outweighs incompleteness."""
    if interrupted:
        return ExitCode.INTERRUPTED
    if verdict["status"] == "gates violated":
        return ExitCode.GATE
    return ExitCode.OK if verdict["complete"] else ExitCode.INCOMPLETE
