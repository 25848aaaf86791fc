"""Known answers in reports: a defense that fails one is named with it, and an audit without any says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from fedsec.reports import html, markdown
from fedsec.reports.document import read
from fedsec.reports.selftests import selftests

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text(encoding="utf-8"))


def row(defense: str, *outcomes: str) -> dict[str, Any]:
    tests = [
        {"test": f"test-{place}", "about": f"Is <{place}> so", "outcome": outcome, "found": "0.5", "expected": "1"}
        for place, outcome in enumerate(outcomes)
    ]
    failed = [one["test"] for one in tests if one["outcome"] == "fails"]
    return {
        "defense": defense,
        "parameters": {"c": 1.0, "layers": [], "capacity": None},
        "stacks": ["clip", "clip+dp-client"],
        "holds": not failed,
        "failed": failed,
        "applied": sum(outcome != "does not apply" for outcome in outcomes),
        "refused_alone": [],
        "tests": tests,
    }


def test_what_failed_comes_first_and_what_does_not_apply_not_at_all(document: dict[str, Any]) -> None:
    document["selftests"] = [
        row("good", "holds", "holds", "does not apply"),
        row("bad", "holds", "fails", "does not apply"),
        row("idle", "does not apply"),
    ]
    assert not list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(document))
    good, bad, idle = selftests(read(document))
    assert (good.holds, good.verdict, len(good.tests)) == (True, "all 2 hold", 2)
    assert (bad.holds, bad.verdict) == (False, "1 of 2 fail: test-1")
    assert [test.name for test in bad.tests] == ["test-1", "test-0"]
    assert (idle.holds, idle.verdict) == (None, "none applies: nothing was shown")
    assert good.defense == "good(c=1.0, layers=[])"
    page = html.render(document)
    assert 'id="selftests"' in page
    assert "1 of 2 fail: test-1" in page
    assert "Is &lt;1&gt; so" in page
    assert "| 1 of 2 fail: test\\-1 |" in markdown.render(document).replace("test-1", "test\\-1")


def test_without_them_there_is_no_section(document: dict[str, Any]) -> None:
    assert 'id="selftests"' not in html.render(document)
    assert "Known answers" not in markdown.render(document)
