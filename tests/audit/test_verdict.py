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


def test_a_stack_that_was_not_tried_is_not_the_best() -> None:
    untried = [{**finding("reader", "aegis", "none"), "status": "not run", "severity": None}]
    verdict = judge([], FINDINGS + untried, [], [{"status": "not run"}], undefended="none", auditors={"canaries"})
    assert "With the best of the 1 stacks that were tried (shield)" in verdict["sentence"]
