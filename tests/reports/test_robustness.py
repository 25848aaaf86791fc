from fedsec.reports.document import read
from fedsec.reports.html import render
from fedsec.reports.overview import Anchors
from fedsec.reports.robustness import robustness


def document(passed=False):
    def finding(stack, ok):
        return {
            "attack": "a",
            "stack": stack,
            "status": "measured",
            "severity": "low",
            "metrics": {
                "robust_error": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9, "unit": "share", "headline": True}
            },
            "checks": [{"name": "zero-gradient", "passed": ok, "text": "No gradient at 90%.", "figures": {}}],
        }

    def row(stack, last):
        points = [(0.0, 0.9), (0.1, 0.5), (0.3, last)]
        return {
            "stack": stack,
            "norm": "linf",
            "attacks": ["a"],
            "inputs": 20,
            "points": [{"size": s, "value": v, "low": v - 0.05, "high": v + 0.05, "n": 20} for s, v in points],
            "distances": {"largest": 0.3, "counts": [0, 3, 0, 6], "held": 5},
        }

    return {
        "schema": "fedsec/audit/1",
        "attacks": [{"label": "a", "name": "a"}],
        "stacks": [{"label": "none", "defenses": []}, {"label": "<b>odd</b>", "defenses": [{"name": "d"}]}],
        "findings": [finding("none", True), finding("<b>odd</b>", passed)],
        "robustness": [row("none", 0.1), row("<b>odd</b>", 0.4), row("unknown", 0.4)],
    }


def test_each_stack_has_a_row_with_its_worst_case_at_each_size():
    audit = read(document())
    (linf,) = robustness(audit, Anchors(audit))
    assert len(linf.sizes) == 3
    assert [row.stack for row in linf.rows] == ["none", "<b>odd</b>"]
    assert [value for value, _ in linf.rows[0].points] == ["90.0%", "50.0%", "10.0%"]
    assert linf.rows[0].held == "25.0%"
    assert [row.doubted for row in linf.rows] == [False, True]
    assert linf.chart is not None
    heights = [height for _, height, _ in linf.rows[0].bars]
    assert heights == [0.0, 50.0, 0.0, 100.0]


def test_the_page_shows_it_escaped_with_the_checks_and_the_mark():
    page = render(document())
    assert 'id="robustness"' in page
    assert "<b>odd</b>" not in page.replace("<b>&lt;b&gt;odd&lt;/b&gt;</b>", "")
    assert "No gradient at 90%." in page
    assert "hides its gradients, so the harm is understated" in page
    assert "hides its gradients, so the harm is understated" not in render(document(passed=True))


def test_an_audit_without_evasion_has_no_such_section():
    plain = document()
    del plain["robustness"]
    audit = read(plain)
    assert robustness(audit, Anchors(audit)) == ()
    assert 'id="robustness"' not in render(plain)
