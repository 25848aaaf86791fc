"""Severities, statuses and categories: their order, their letters and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .document import Audit, headline, number_of, texts

SEVERITIES = ("critical", "high", "medium", "low", "none")
LETTERS = {"critical": "C", "high": "H", "medium": "M", "low": "L", "none": "N"}
STATUSES = {
    "blocked": "what the attack needs exists, and its position cannot read it",
    "not applicable": "nothing of the kind that the attack needs can exist in this federation",
    "not run": "planned, and no result: says nothing about security",
    "error": "the cell failed: says nothing about security",
}
CHANGES_INPUTS = "Evasion robustness"
CLAIMS = "Privacy claims"
CATEGORIES = {
    "Confidentiality": "what can be learned about the training data",
    "Integrity": "what controlled clients can do to the shared model",
    CHANGES_INPUTS: "what changed inputs can do to the released model",
    CLAIMS: "how far planted canaries, the worst case, are found out in spite of a promised privacy budget",
}
SETTLED = ("blocked", "not applicable")
UNPROVEN = "unproven"


def rank(severity: str | None) -> int:
    """0 for the worst; what is not a severity ranks behind all of them."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def category_of(attack: Mapping[str, Any]) -> str:
    """The category of an attack, from what its threat model declares.

    An auditor tests claims: its canaries are made to be found, so they say nothing of other people's data. An active
    adversary attacks integrity, unless it takes part in order to read; one that controls inputs at
    deployment, robustness; any other one reads.
    """
    if attack.get("audits"):
        return CLAIMS
    if attack.get("active") and not attack.get("observes"):
        return "Integrity"
    if "testing data control" in texts(attack, "capabilities"):
        return CHANGES_INPUTS
    return "Confidentiality"


def control_failed(audit: Audit, attack: str) -> bool:
    """Whether the attack failed on the undefended control, so that its failures elsewhere show nothing."""
    return any(audit.finding(attack, stack).get("control_succeeded") is False for stack in audit.stacks)


def unproven(audit: Audit, attack: str, stack: str) -> bool:
    """Whether a harmless-looking number is no evidence: the attack failed on its control and here too."""
    finding = audit.finding(attack, stack)
    harmless = measured(finding) and rank(finding.get("severity")) >= rank("low")
    return harmless and control_failed(audit, attack)


def needs_adaptive_caveat(audit: Audit, attack: str, stack: str) -> bool:
    """Whether a defense looks good here only against an attack that does not know it."""
    finding = audit.finding(attack, stack)
    if stack == audit.baseline or not measured(finding):
        return False
    return finding.get("adaptive") is False and rank(finding.get("severity")) > rank("critical")


def measured(finding: Mapping[str, Any]) -> bool:
    """Whether there is a headline number with a severity; a finding that only says so does not count."""
    _, metric = headline(finding)
    known = finding.get("severity") in SEVERITIES and number_of(metric, "value") is not None
    return finding.get("status") == "measured" and known


def settled(finding: Mapping[str, Any]) -> bool:
    """Whether nothing is left open: measured, blocked or not applicable."""
    return finding.get("status") in SETTLED or measured(finding)


def advantage(finding: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """``(value, low, high)`` of the headline's advantage; a blocked cell has none to gain; ``None`` if unmeasured."""
    if finding.get("status") == "blocked":
        return 0.0, 0.0, 0.0
    _, metric = headline(finding)
    value = number_of(metric, "advantage")
    if not measured(finding) or value is None:
        return None
    low, high = number_of(metric, "advantage_low"), number_of(metric, "advantage_high")
    return value, value if low is None else low, value if high is None else high


def badness(finding: Mapping[str, Any]) -> tuple[int, float]:
    """Sorts findings, worst first: by severity, then by the upper end of the advantage."""
    gain = advantage(finding)
    return rank(finding.get("severity")), -(gain[2] if gain else 0.0)
