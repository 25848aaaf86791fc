from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from fedsec import registry

frontier = importlib.import_module("fedsec.reports.frontier")
document_module = importlib.import_module("fedsec.reports.document")
overview = importlib.import_module("fedsec.reports.overview")
render = registry.get("reports", "html")


def made(document: dict[str, Any]) -> Any:
    audit = document_module.read(document)
    return frontier.frontiers(audit, overview.Anchors(audit))


def test_filled_dots_are_those_that_nothing_beats(document) -> None:
    pictures = made(document)
    assert {p.family for p in pictures} == {"inversion", "property", "membership"}
    for picture in pictures:
        for point in picture.points:
            # To the right is a larger x; less leakage is a larger y, since pixels count from the top.
            beaten = [
                o for o in picture.points if o.x >= point.x and o.y >= point.y and (o.x > point.x or o.y > point.y)
            ]
            assert point.best == (not beaten)


def test_a_larger_upload_has_a_larger_dot(document) -> None:
    points = {p.stack: p for p in made(document)[0].points}
    assert points["ckks"].radius > points["none"].radius


def test_what_gave_no_evidence_has_no_dot_and_says_so(document) -> None:
    for finding in document["findings"]:
        if finding["family"] == "membership":
            finding["control_succeeded"] = False
            finding["severity"] = "none" if finding["severity"] else None
    assert "membership" not in {p.family for p in made(document)}


def test_the_page_draws_it(document) -> None:
    page = render(document)
    assert page.count('class="chart frontier"') == 3
    assert 'id="frontier"' in page


def test_oracles_are_marked_in_the_matrix(document) -> None:
    document["attacks"][0]["oracles"] = ["labels of the victim's examples"]
    page = render(document)
    assert "§ given labels of the victim&#39;s examples" in page
    assert "a bound, not a threat" in page
    assert "§" not in render(remove(document, "oracles"))


def remove(document: dict[str, Any], key: str) -> dict[str, Any]:
    for attack in document["attacks"]:
        attack.pop(key, None)
    return document


@pytest.mark.parametrize(("bound", "broken"), [(0.7, False), (3.2, True)])
def test_a_measured_epsilon_stands_beside_the_claim(document, bound: float, broken: bool) -> None:
    for finding in document["findings"]:
        if finding["stack"] == "clip+dp-client" and finding["attack"] == "property-inference":
            finding["metrics"]["epsilon_lower_bound"] = {"value": bound, "ceiling": 5.81, "headline": False}
    page = render(document)
    assert f"at least {bound:#.3g} at 95% (property-inference); this test cannot show more than 5.81" in page
    assert ("claim broken" in page) == broken


def test_who_is_most_exposed_is_named(document) -> None:
    for finding in document["findings"]:
        if finding["attack"] == "dlg" and finding["stack"] == "none":
            finding["exposed"] = [{"unit": f"client:{i}", "score": 1.0, "text": "<b>3 of 4</b>"} for i in range(9)]
    page = render(document)
    assert "Who is most exposed" in page
    assert "&lt;b&gt;3 of 4&lt;/b&gt;" in page
    assert len(re.findall(r"client:\d <small>", page)) == 5


def test_one_who_takes_part_in_order_to_read_is_no_threat_to_integrity(document) -> None:
    severity = importlib.import_module("fedsec.reports.severity")
    assert severity.category_of({"active": True, "observes": True}) == "Confidentiality"
    assert severity.category_of({"active": True}) == "Integrity"
    assert severity.category_of({"active": True, "observes": True, "audits": True}) == "Privacy claims"
