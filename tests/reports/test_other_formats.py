"""The schema, the Markdown summary and the CSV table."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedsec.errors import DataError
from fedsec.reports import markdown, table

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text(encoding="utf-8"))


def problems(document: dict[str, Any]) -> list[str]:
    return [e.json_path for e in jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)]


def test_the_schema_is_one_and_accepts_the_document(document: dict[str, Any], private_document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert problems(document) == []
    assert problems(private_document) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "fedsec/audit/2"),
        (("verdict", "status"), "passed"),
        (("findings", 0, "status"), "ok"),
        (("findings", 0, "severity"), None),
        (("findings", 0, "metrics"), {}),
        (("stacks", 2, "claims", 0), {"defense": "dp", "epsilon": 1.0}),
        (("federation", "dataset", "bounds"), [0]),
    ],
)
def test_the_schema_refuses_what_would_mislead(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    document["findings"] = document["findings"][:1]
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert problems(document)


def test_a_finding_without_a_number_needs_a_reason(document: dict[str, Any]) -> None:
    blocked = next(f for f in document["findings"] if f["status"] == "blocked")
    blocked["reason"] = ""
    document["findings"] = [blocked]
    assert problems(document)


def test_markdown_tables_are_whole_and_say_what_matters(document: dict[str, Any]) -> None:
    text = markdown.render(document)
    assert text == markdown.render(copy.deepcopy(document))
    assert text.startswith("# Ten clients train a digit reader\n")
    for said in ("Gates violated", "incomplete", "_blocked_", "_error_", "## Claims", "epsilon 3.1416"):
        assert said in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            widths = {line.replace(r"\|", "").count("|") for line in block.splitlines()}
            assert len(widths) == 1, block[:200]


def test_markdown_escapes_foreign_text(document: dict[str, Any]) -> None:
    evil = "a|b <script>alert(1)</script> [x](http://x) `c`\n# d"
    document["title"] = evil
    document["attacks"][0]["label"] = evil
    for finding in document["findings"]:
        if finding["attack"] == "linear-layer-inversion":
            finding["attack"] = evil
    text = markdown.render(document)
    assert r"\<script\>" in text
    assert "<script" not in text.replace(r"\<", "")
    assert "\n# d" not in text
    assert r"a\|b" in text


def test_markdown_of_an_almost_empty_file() -> None:
    text = markdown.render({"schema": "fedsec/audit/1"})
    assert "The audit holds no findings." in text


def test_csv_has_a_line_per_pair_and_metric_with_unrounded_numbers(document: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(table.render(document))))
    expected = sum(max(1, len(f["metrics"])) for f in document["findings"])
    assert len(lines) == expected
    first = document["findings"][0]
    line = next(x for x in lines if x["attack"] == first["attack"] and x["headline"] == "true")
    assert float(line["value"]) == first["metrics"]["identified"]["value"]
    assert line["category"] == "Confidentiality"
    errors = [x for x in lines if x["status"] == "error"]
    assert errors
    assert errors[0]["value"] == ""
    assert errors[0]["reason"].startswith("ValueError")


def test_csv_runs_no_formula(document: dict[str, Any]) -> None:
    blocked = next(f for f in document["findings"] if f["status"] == "blocked")
    blocked["reason"] = "=HYPERLINK(1)"
    lines = csv.DictReader(io.StringIO(table.render(document)))
    assert "'=HYPERLINK(1)" in [line["reason"] for line in lines]


@pytest.mark.parametrize("render", [markdown.render, table.render])
def test_another_schema_is_refused(render: Any) -> None:
    with pytest.raises(DataError, match="fedsec/audit/1"):
        render({"schema": None})
