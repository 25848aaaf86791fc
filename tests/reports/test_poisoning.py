"""What the page says of active attacks: breakdown curves, the strongest found, detection; on a document made for it."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedsec.reports import breakdown, detection, findings, overview, strongest
from fedsec.reports.document import read
from fedsec.reports.html import render
from fedsec.reports.images import Budget
from fedsec.reports.markdown import render as summary
from fedsec.reports.shares import compromised

from .conftest import metric
from .test_html import Page

SHARES = {"label-flip": 0.2, "sign-flip": 0.2, "alie": 0.2, "sybil x label-flip": 0.5}
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text(encoding="utf-8"))


def watched(value: float) -> dict[str, Any]:
    """Detection metrics of a stack that catches this share."""
    made = {
        "detection_tpr": metric(value, 0.0, 1.0, 200, "detection_tpr", False),
        "detection_fpr": metric(0.1, 0.05, 1.0, 800, "detection_fpr", False),
        "detection_auc": metric(0.5 + value / 2, 0.5, 1.0, 1000, "auc", False),
        "accuracy_drop": metric(0.3, 0.0, 0.9, 1500, "accuracy_drop", False),
    }
    never = {"value": 20.0, "low": 20.0, "high": 20.0, "ceiling": 20.0, "unit": "rounds"}
    return {**made, "detection_first": made["detection_tpr"] | never}


@pytest.fixture
def poisoned(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a sweep of one attack over three shares, bounds of two stacks, and a detector."""
    for finding in document["findings"]:
        if finding["attack"] in SHARES:
            finding["cost"]["compromised"] = SHARES[finding["attack"]]
    for label, share in (("few", 0.1), ("many", 0.4)):
        attack = copy.deepcopy(next(a for a in document["attacks"] if a["label"] == "label-flip"))
        document["attacks"].append(attack | {"label": label, "parameters": attack["parameters"] | {"fraction": share}})
        for finding in [f for f in document["findings"] if f["attack"] == "label-flip"]:
            other = copy.deepcopy(finding) | {"attack": label}
            other["cost"]["compromised"] = share
            document["findings"].append(other)
    for stack in document["stacks"]:
        if stack["label"] == "multi-krum":
            stack |= {"breakdown": 0.3, "assumed": 0.2}
        if stack["label"] == "coordinate-median":
            stack |= {"breakdown": 0.499, "assumed": None}
    for finding in document["findings"]:
        if (finding["attack"], finding["stack"]) in (("sign-flip", "multi-krum"), ("sign-flip", "update-statistics")):
            finding["metrics"] |= watched(0.9)
            finding["exhibits"]["roc"] = {"fpr": [0.0, 0.1, 1.0], "tpr": [0.0, 0.8, 1.0]}
        if (finding["attack"], finding["stack"]) == ("sign-flip", "update-statistics"):
            groups = [
                {"by": "class", "group": str(k), "clients": 2, "value": k / 10, "low": 0.0, "high": 1.0, "n": 9}
                for k in range(4)
            ]
            finding["exhibits"]["detection"] = {
                "rounds": {"x": [0, 1, 2], "attackers": [0.5, None, 1.0], "honest": [0.0, 0.1, 0.0]},
                "groups": groups,
            }
    return document


def drawn(document: dict[str, Any]) -> Any:
    audit = read(document)
    (one,) = breakdown.breakdowns(audit, overview.Anchors(audit))
    return one, {panel.stack: panel for panel in one.panels}


def test_the_document_fits_the_schema(poisoned: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(poisoned)
    assert Page(render(poisoned)).open == []


def test_attacks_that_differ_in_their_share_are_one_curve(poisoned: dict[str, Any]) -> None:
    one, panels = drawn(poisoned)
    assert [label for label, _, _ in one.attacks] == ["few", "label-flip", "many"]
    assert set(panels) == {stack["label"] for stack in poisoned["stacks"]}
    (accuracy, harm) = panels["multi-krum"].tracks
    assert (accuracy.name, harm.name) == ("accuracy", "accuracy lost")
    assert len(accuracy.marks) == len(harm.marks) == 4  # the honest federation, and three shares
    assert all(a.x < b.x for a, b in itertools.pairwise(accuracy.marks))
    for mark in (*accuracy.marks, *harm.marks):
        assert mark.high <= mark.y <= mark.low


def test_other_parameters_make_another_curve(poisoned: dict[str, Any]) -> None:
    for attack in poisoned["attacks"]:
        if attack["label"] == "few":
            attack["parameters"]["restarts"] = 3
    one, _ = drawn(poisoned)
    assert [label for label, _, _ in one.attacks] == ["label-flip", "many"]
    for attack in poisoned["attacks"]:
        if attack["label"] == "many":
            attack["parameters"]["restarts"] = 4
    audit = read(poisoned)
    assert breakdown.breakdowns(audit, overview.Anchors(audit)) == ()


def test_a_share_inside_a_carried_attack_does_not_part_a_curve(poisoned: dict[str, Any]) -> None:
    for attack in poisoned["attacks"]:
        if attack["label"] in ("few", "label-flip", "many"):
            inner = {"name": "x", "fraction": len(attack["label"]) / 100}
            attack["parameters"] = {"carries": inner, "identities": len(attack["label"])}
    assert len(drawn(poisoned)[0].attacks) == 3


def test_bounds_stand_where_they_belong(poisoned: dict[str, Any]) -> None:
    one, panels = drawn(poisoned)
    left, right = one.frame[0], one.frame[2]
    krum = panels["multi-krum"]
    assert (krum.bound - left) / (krum.assumed - left) == pytest.approx(1.5, rel=0.01)
    assert left < krum.assumed < krum.bound < panels["coordinate-median"].bound <= right
    assert panels["none"].bound is None
    assert krum.said[:2] == ("proved up to 30.0%", "set up for 20.0%")
    assert panels["none"].reference == ""
    assert krum.reference == panels["none"].tracks[0].line


def test_a_bound_far_from_every_share_is_said_and_not_drawn(poisoned: dict[str, Any]) -> None:
    for finding in poisoned["findings"]:
        if "compromised" in finding["cost"]:
            finding["cost"]["compromised"] /= 100
    _, panels = drawn(poisoned)
    assert panels["multi-krum"].bound is None
    assert "proved up to 30.0%" in panels["multi-krum"].said


def test_a_headline_that_is_the_error_is_not_drawn_twice(poisoned: dict[str, Any]) -> None:
    for finding in poisoned["findings"]:
        if finding["attack"] in ("few", "label-flip", "many") and finding["metrics"]:
            finding["metrics"]["accuracy_lost"]["value"] = 1.0 - finding["utility"]["accuracy"]["value"]
    one, _ = drawn(poisoned)
    assert one.names == ("accuracy",)


def test_the_strongest_attack_has_the_largest_advantage_of_its_kind(poisoned: dict[str, Any]) -> None:
    audit = read(poisoned)
    table = strongest.strongest(audit, overview.Anchors(audit))
    assert [kind.partition(":")[0] for kind in table.kinds] == ["availability", "targeted"]
    judged = {a["label"]: a["judge"] for a in poisoned["attacks"]}
    for row in table.rows:
        for kind, found in zip(table.kinds, row.found, strict=True):
            rivals = [
                f
                for f in poisoned["findings"]
                if f["stack"] == row.stack and judged[f["attack"]] == kind.partition(":")[0] and f["attack"] != "many"
            ]
            gains = {f["attack"]: next(iter(f["metrics"].values()))["advantage"] for f in rivals}
            proven = {a: g for a, g in gains.items() if a != "alie"} or gains
            worst = max(gains if gains[max(gains, key=gains.get)] >= 0.25 else proven, key=gains.get)
            assert found.attack == worst, row.stack
            assert found.share
            assert found.others == len(rivals) - 1
    costs = {row.stack: row for row in table.rows}
    assert costs["multi-krum"].bound == "30.0%"
    assert costs["ckks"].seconds == "3.61×"


def test_attacks_with_more_identities_than_most_are_left_to_the_curves(poisoned: dict[str, Any]) -> None:
    audit = read(poisoned)
    table = strongest.strongest(audit, overview.Anchors(audit))
    assert table.kinds == ("availability: accuracy lost, up to 20.0% compromised", "targeted: flipped")
    for row in table.rows:
        assert row.found[0].attack != "many"
        assert row.found[0].others == 3  # few, label-flip, sign-flip, alie; one of them is the strongest


def test_an_audit_without_active_attacks_has_none_of_it(document: dict[str, Any]) -> None:
    kept = [a for a in document["attacks"] if not a["active"]]
    labels = {a["label"] for a in kept}
    document["attacks"] = kept
    document["findings"] = [f for f in document["findings"] if f["attack"] in labels]
    page = Page(render(document))
    assert not {"strongest", "breakdown"} & {attrs.get("id") for _, attrs in page.tags}
    assert page.open == []


def test_the_compromised_share_stands_in_the_matrix_and_over_the_evidence(poisoned: dict[str, Any]) -> None:
    assert Page(render(poisoned)).words().count("20.0% compromised") >= 4
    audit = read(poisoned)
    assert compromised(audit, "dlg") == ""
    poisoned["findings"][-1]["cost"]["compromised"] = 0.45
    assert compromised(read(poisoned), "many") == "40.0% to 45.0% compromised"


def test_detection_shows_the_stacks_that_noticed_something(poisoned: dict[str, Any]) -> None:
    audit = read(poisoned)
    found = {stack: audit.finding("sign-flip", stack) for stack in audit.stacks}
    made = detection.detection("sign-flip", found)
    assert [row.stack for row in made.stacks] == ["multi-krum", "update-statistics"]
    first = dict(zip(made.columns, made.stacks[0].cells, strict=True))
    assert first["First dropped after"] == ("never", "", "")
    assert first["AUC of suspicion"][0] == "0.950"
    assert first["Honest dropped"][2] == "5.00% with no attack"
    assert [stack for stack, _ in made.charts] == ["update-statistics"]
    (fair,) = made.fairness
    assert fair.gap == "largest: 3, 30.0%, against 10.0% of all"
    assert [share.length for share in fair.shares] == sorted(share.length for share in fair.shares)
    assert detection.detection("dlg", {s: audit.finding("dlg", s) for s in audit.stacks}) is None
    words = Page(render(poisoned)).words()
    assert "What the stacks noticed" in words
    assert "impact −30.0 points" in words
    assert "attack impact (accuracy drop)" in words


def test_every_metric_beside_the_headline_has_a_row_with_a_cell_per_stack(poisoned: dict[str, Any]) -> None:
    audit = read(poisoned)
    (section,) = [s for s in findings.sections(audit, overview.Anchors(audit), Budget(0)) if s.label == "sign-flip"]
    rows = {row.name: row for row in section.metrics}
    assert set(rows) == {
        "detection tpr", "detection fpr", "detection auc", "detection first", "attack impact (accuracy drop)",
    }  # fmt: skip
    shown = [e.stack for e in section.evidence if e.strip]
    cells = dict(zip(shown, rows["detection fpr"].cells, strict=True))
    assert cells["multi-krum"][0] == "10.0%"
    assert cells["multi-krum"][2] == "floor 5.00%"
    assert cells["none"] == ("—", "", "")


def test_the_end_of_an_attack_is_marked_where_rounds_follow_it(poisoned: dict[str, Any]) -> None:
    for finding in poisoned["findings"]:
        if (finding["attack"], finding["stack"]) == ("sign-flip", "none"):
            finding["exhibits"]["acting"] = {"first": 1, "last": 12}
            finding["exhibits"]["curves"]["success"] = {"x": [1, 20], "y": [0.1, 0.9]}
    page = Page(render(poisoned))
    assert [a["class"] for a in page.all("path") if a.get("class") == "event"] == ["event"] * 2  # line and legend
    assert "attack ends" in page.words()
    assert "attack starts" not in page.words()  # with the first round that is drawn
    assert "success" in page.words()


def test_the_summary_names_the_strongest_attack_and_the_share(poisoned: dict[str, Any]) -> None:
    text = summary(poisoned)
    assert "## The strongest attack found on each stack" in text
    assert "| sign-flip (accuracy lost, 20.0% compromised) |" in text
    lines = text.partition("## The strongest attack")[2].splitlines()
    krum = next(line for line in lines if line.startswith("| multi-krum"))
    assert "alie **M** 44.0%" in krum
    assert "20.0% compromised) |" in krum
    assert "| 30.0% |" in krum
