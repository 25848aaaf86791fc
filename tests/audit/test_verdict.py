from __future__ import annotations

from fedsec.audit.verdict import judge


def finding(attack: str, stack: str, severity: str) -> dict:
    return {"attack": attack, "stack": stack, "status": "measured", "severity": severity, "metrics": {}}


FINDINGS = [
    finding("reader", "none", "high"),
    finding("reader", "shield", "low"),
    finding("canaries", "none", "critical"),
    finding("canaries", "shield", "critical"),
]


def test_auditors_are_counted_apart() -> None:
    verdict = judge([], FINDINGS, [], [{"status": "measured"}], undefended="none", auditors={"canaries"})
    assert verdict["worst"] == "high"
    assert verdict["sentence"].startswith("Without a defense 1 of 1 attacks are high or critical.")
    assert "(shield) none of them is left" in verdict["sentence"]


def test_without_auditors_everything_counts() -> None:
    verdict = judge([], FINDINGS, [], [{"status": "measured"}], undefended="none")
    assert verdict["worst"] == "critical"
    assert "2 of 2 attacks" in verdict["sentence"]
