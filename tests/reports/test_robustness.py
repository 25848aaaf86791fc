import base64
import io

import numpy as np
from PIL import Image

from fedsec.reports import markdown
from fedsec.reports.document import read
from fedsec.reports.exhibits import galleries
from fedsec.reports.html import render
from fedsec.reports.images import Budget
from fedsec.reports.overview import Anchors
from fedsec.reports.passes import passes
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
    assert linf.rows[0].inputs == "20"
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


def with_runs_beyond():
    made = document()
    for index, row in enumerate(made["robustness"]):
        row["seekers"] = ["a"]
        row["curve"] = [
            {"size": 0.03 * k, "value": 0.9 - 0.04 * k, "low": 0.0, "high": 1.0, "n": 20} for k in range(21)
        ]
        row["distances"] |= {"largest": 0.6, "beyond": 2}
        row["by_client"] = {
            "size": 0.3,
            "seed": 4,
            "clients": [
                {"client": 7, "value": 0.05 * (1 + index), "low": 0.0, "high": 0.2, "n": 9.5},
                {"client": 0, "value": 0.25, "low": 0.1, "high": 0.4, "n": 9.5},
            ],
        }
    return made


def test_a_run_beyond_the_size_draws_the_accuracy_at_every_size():
    audit = read(with_runs_beyond())
    (linf,) = robustness(audit, Anchors(audit))
    assert linf.seekers == ("a",)
    assert len(linf.chart.lines[0].points.split()) == 21
    assert [value for value, _ in linf.rows[0].points] == ["90.0%", "50.0%", "10.0%"]
    # sizes of 0.1 and 0.3 on an axis that ends at 0.6
    assert linf.rows[0].marks == (16.7, 50.0)
    assert "2 beyond" in render(with_runs_beyond())
    assert "true distances may be much smaller" in render(document())
    assert "true distances may be much smaller" not in render(with_runs_beyond())


def test_a_stack_without_a_bar_says_what_lies_beyond():
    made = with_runs_beyond()
    made["robustness"][0]["distances"] = {"largest": 0.6, "counts": [0] * 4, "beyond": 3, "held": 2}
    assert "none up to 0.600; 3 beyond" in render(made)
    made["robustness"][0]["distances"] = {"largest": 0.6, "counts": [0] * 4, "beyond": 0, "held": 20}
    assert "none up to 0.600</small>" in render(made)


def test_each_stack_has_a_chart_of_its_clients():
    made = with_runs_beyond()
    audit = read(made)
    (linf,) = robustness(audit, Anchors(audit))
    first = linf.clients.charts[0]
    assert (linf.clients.size, linf.clients.seed) == ("0.300", "4")
    assert first.clients == (("client 7", "5.00%", "0–20.0%"), ("client 0", "25.0%", "10.0–40.0%"))
    assert first.about == "2 clients; worst 5.00% (client 7); best 25.0% (client 0)"
    assert first.dots.count("M") == first.whiskers.count("M") == 2
    page = render(made)
    assert "By client, at 0.300 (linf)" in page
    assert "By client" not in render(document())


def test_of_many_clients_both_ends_are_drawn():
    made = with_runs_beyond()
    clients = [{"client": k, "value": k / 999, "low": 0, "high": 1, "n": 5} for k in range(1000)]
    made["robustness"][0]["by_client"]["clients"] = clients
    audit = read(made)
    drawn = robustness(audit, Anchors(audit))[0].clients.charts[0]
    assert len(drawn.clients) == 120
    assert drawn.about == "1000 clients; worst 0% (client 0); best 100% (client 999)"


def test_the_passes_of_every_attack_are_shown_where_they_were_counted():
    made = document()
    assert passes(read(made), Anchors(read(made))) is None
    counted = {"forward_passes": 40.4, "backward_passes": 4000.0}
    made["findings"][0]["metrics"] |= {n: {"value": v, "low": v, "high": v, "n": 9} for n, v in counted.items()}
    audit = read(made)
    found = passes(audit, Anchors(audit))
    assert [stack for stack, _ in found.stacks] == ["none"]
    (cell,) = found.rows[0].cells
    assert (cell.forward, cell.backward, found.most) == ("40.4", "4,000", "4,000")
    assert cell.backward_length == 100
    assert 40 < cell.forward_length < 50
    assert "What the attacks cost" in render(made)


def pixels(address):
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_what_was_changed_is_drawn_around_grey_with_its_scale():
    made = document()
    made["attacks"][0]["capabilities"] = ["testing data control"]
    made["federation"] = {"dataset": {"bounds": [0, 1], "public": True}}
    made["findings"][0]["exhibits"] = {
        "gallery": {
            "shape": [1, 2, 2],
            "original": [[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]],
            "reconstruction": [[0.5, 0.6, 0.4, 0.55], [0.1, 0.1, 0.1, 0.1]],
            "score": [0.1, 0.0],
        }
    }
    changed, same = galleries(read(made), ["a"], Budget(10_000))["a"][0].pairs
    assert (changed.scale, same.scale) == ("0.100", "0")
    assert pixels(changed.difference).tolist() == [[128, 255], [0, 191]]
    assert pixels(same.difference).tolist() == [[128, 128], [128, 128]]
    page = render(made)
    assert "grey is no change" in page
    assert "±0.100" in page
    made["attacks"][0]["capabilities"] = []
    assert galleries(read(made), ["a"], Budget(10_000))["a"][0].pairs[0].difference == ""
    assert "grey is no change" not in render(made)


def test_the_summary_has_the_worst_case_of_each_stack():
    said = markdown.render(document())
    assert "## Robust accuracy" in said
    assert "| none | 90.0% (85.0–95.0%) | 50.0% (45.0–55.0%) | 10.0% (5.00–15.0%) | a |" in said
    assert "odd\\</b\\> ¶ |" in said
    plain = document()
    del plain["robustness"]
    assert "Robust accuracy" not in markdown.render(plain)
