"""The page: self-contained, safe, navigable, deterministic, and whole when parts of the document are missing."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import random
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from fedsec.errors import DataError
from fedsec.reports.html import LARGEST_PAGE, render

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Collects what the tests ask about, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def page(document: dict[str, Any]) -> Page:
    return Page(render(document))


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_nothing_is_loaded_and_nothing_runs(document: dict[str, Any]) -> None:
    text = render(document)
    page = Page(text)
    assert "<script" not in text.lower()
    assert "javascript:" not in text.lower()
    assert "@import" not in page.style
    assert "url(" not in page.style
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), tag
        assert "style" not in attrs, f"the policy blocks inline styles, found one on <{tag}>"
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            if attrs.get(name) and tag != "a":
                assert attrs[name].startswith(("data:", "#")), (tag, attrs[name])


def test_the_policy_allows_exactly_its_own_style(page: Page) -> None:
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_every_internal_link_has_its_anchor_and_ids_are_unique(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    links = [attrs["href"][1:] for _, attrs in page.tags if (attrs.get("href") or "").startswith("#")]
    assert set(links) <= set(ids)
    named = [i for _, attrs in page.tags for i in (attrs.get("aria-labelledby") or "").split()]
    assert set(named) <= set(ids)


def test_every_cell_of_the_matrix_links_to_its_evidence(document: dict[str, Any], page: Page) -> None:
    pairs = len(document["attacks"]) * len(document["stacks"])
    links = [a["href"] for a in page.all("a") if a.get("aria-label")]
    assert len(links) == len(set(links)) == pairs
    assert all(link.startswith("#evidence-") for link in links)


def test_headings_are_in_order(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert all(th.get("scope") in ("col", "row", "rowgroup", "colgroup") for th in page.all("th"))
    assert all(img.get("alt") for img in page.all("img"))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (
            svg.get("role") == "img" and (svg.get("aria-label") or svg.get("aria-labelledby"))
        )


def test_the_page_is_small_and_the_same_every_time(document: dict[str, Any]) -> None:
    text = render(document)
    assert len(text.encode()) < LARGEST_PAGE
    assert render(copy.deepcopy(document)) == text


def test_large_galleries_do_not_make_a_large_page(document: dict[str, Any]) -> None:
    side, count = 64, 3 * 64 * 64
    source = random.Random(0)
    rows = [[source.random() for _ in range(count)] for _ in range(3)]
    for finding in document["findings"]:
        if finding["status"] == "measured":
            finding["exhibits"]["gallery"] = {
                "shape": [3, side, side], "original": rows, "reconstruction": rows, "score": [0.3, 0.2, 0.1],
            }  # fmt: skip
    page = render(document)
    assert len(page.encode()) < LARGEST_PAGE
    assert "Left out to keep this page small" in page


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}'</style>"]
)
def test_foreign_text_stays_text(document: dict[str, Any], evil: str) -> None:
    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: spoil(v) if k != "schema" else v for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(v) for v in value]
        known = (
            "measured",
            "blocked",
            "not applicable",
            "not run",
            "error",
            "critical",
            "high",
            "medium",
            "low",
            "none",
        )
        return value + evil if isinstance(value, str) and value not in known else value

    spoiled = spoil(document) | {"title": evil}
    spoiled["config"][evil] = evil
    clean, page = Page(render(document)), Page(render(spoiled))
    assert page.open == []
    assert not page.all("script")
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    assert {name for _, attrs in page.tags for name in attrs} <= {name for _, attrs in clean.tags for name in attrs}
    assert evil in "".join(page.text)
    assert page.style == clean.style


def test_withheld_originals_are_announced_and_absent(
    document: dict[str, Any], private_document: dict[str, Any]
) -> None:
    public, private = Page(render(document)), Page(render(private_document))
    assert "Originals are withheld." in private.words()
    assert "Originals are withheld." not in public.words()
    assert not [i for i in private.all("img") if i["alt"].startswith("original")]
    assert [i for i in public.all("img") if i["alt"].startswith("original")]


def test_changed_inputs_are_withheld_with_their_originals(document: dict[str, Any]) -> None:
    pixels = [[0.0, 0.5, 0.5, 1.0]]
    for finding in document["findings"]:
        finding["exhibits"] = {}
        if finding["family"] == "evasion":
            finding["exhibits"]["gallery"] = {
                "shape": [1, 2, 2], "original": None, "reconstruction": pixels, "score": [0.5],
            }  # fmt: skip
    page = Page(render(document))
    assert page.all("img") == []
    assert "an input that was changed a little shows its original" in page.words()


def test_what_has_no_number_is_named_and_explained(page: Page) -> None:
    words = page.words()
    for said in ("not run", "blocked", "not applicable", "error", "stopped by the user before this cell started"):
        assert said in words
    assert "ValueError: 3 reconstructions name round 7, which was not recorded <round 7 & sender 'client:1'>" in words
    assert "294 of 300" in words


def test_an_attack_that_failed_on_its_control_is_no_evidence(document: dict[str, Any]) -> None:
    page = Page(render(document))
    assert "The attack failed on its own undefended control" in page.words()
    cells = [c for c in page.all("a") if (c.get("aria-label") or "").startswith("alie on none")]
    assert "no evidence" in cells[0]["aria-label"]


REQUIRED_ONLY = {"schema": "fedsec/audit/1"}


@pytest.mark.parametrize("part", ["attacks", "stacks", "cells", "findings", "utilities", "opens"])
@pytest.mark.parametrize("value", [[], None])
def test_a_missing_list_is_survived(document: dict[str, Any], part: str, value: Any) -> None:
    page = Page(render(document | {part: value}))
    assert page.open == []
    ids = {attrs["id"] for _, attrs in page.tags if attrs.get("id")}
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= ids


def test_an_almost_empty_file_is_a_page_that_says_so() -> None:
    words = Page(render(REQUIRED_ONLY)).words()
    assert "The audit holds no findings." in words
    assert "incomplete" in words


@pytest.mark.parametrize("drop", ["utility", "cost", "exhibits", "by_seed", "notes", "taxonomy", "metrics", "reason"])
def test_a_finding_without_an_optional_part_is_survived(document: dict[str, Any], drop: str) -> None:
    for finding in document["findings"]:
        del finding[drop]
    assert Page(render(document)).open == []


@pytest.mark.parametrize("change", [{"severity": None}, {"severity": "fine"}, {"metrics": {}}, {"status": "passed"}])
def test_a_finding_that_cannot_be_judged_is_never_shown_as_harmless(
    document: dict[str, Any], change: dict[str, Any]
) -> None:
    finding = next(f for f in document["findings"] if (f["attack"], f["stack"]) == ("dlg", "dp-local"))
    finding.update(change)
    page = Page(render(document))
    (cell,) = [c for c in page.all("a") if (c.get("aria-label") or "").startswith("dlg on dp-local")]
    assert cell["aria-label"] == f"dlg on dp-local: {change.get('status', 'no number')}"
    assert "3 of 50 cells have no result." in page.words()


def test_a_gallery_that_does_not_fit_its_shape_says_so(document: dict[str, Any]) -> None:
    document["findings"][0]["exhibits"]["gallery"]["shape"] = [1, 3, 3]
    assert "Cannot be drawn" in Page(render(document)).words()


def test_numbers_that_are_null_are_survived(document: dict[str, Any]) -> None:
    for finding in document["findings"]:
        for metric in finding["metrics"].values():
            for key in ("low", "high", "floor", "ceiling", "advantage", "advantage_low", "advantage_high", "n"):
                metric[key] = None
    assert Page(render(document)).open == []


def test_a_pair_without_a_finding_counts_as_not_run(document: dict[str, Any]) -> None:
    document["findings"] = [f for f in document["findings"] if f["stack"] != "clip"]
    cells = {c["aria-label"] for c in Page(render(document)).all("a") if c.get("aria-label")}
    assert "dlg on clip: not run" in cells


def test_a_regression_is_scored_by_its_own_name(document: dict[str, Any]) -> None:
    for row in (*document["utilities"], *(f["utility"] for f in document["findings"])):
        if "accuracy" in row:
            row["r2"] = row.pop("accuracy")
    words = Page(render(document)).words()
    assert "R² 0.951" in words
    assert "R² 95.1%" not in words


def test_rows_of_numbers_have_a_gallery_too(document: dict[str, Any]) -> None:
    finding = document["findings"][0]
    finding["exhibits"]["gallery"] = {
        "shape": [3], "original": [[1.0, 2.0, None]], "reconstruction": [[1.5, 2.5, 3.5]], "score": [0.5],
    }  # fmt: skip
    assert "1.50" in Page(render(document)).words()


def test_another_schema_is_refused() -> None:
    with pytest.raises(DataError, match="fedsec/audit/1"):
        render({"schema": "fedsec/audit/2"})


def _luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast_in_both_modes(page: Page) -> None:
    blocks = re.findall(r":root \{(.*?)\}", page.style, re.DOTALL)
    assert len(blocks) == 2
    severities = ("critical", "high", "medium", "low", "none", "unproven", "hatch")
    pairs = [(f"{s}-fg", f"{s}-bg") for s in severities] + [("hatch-fg", "hatch-line")]
    surfaces = ("paper", "panel", "faint")
    pairs += [(text, on) for text in ("ink", "quiet", "link", "warm") for on in surfaces]
    pairs += [(text, "accent-soft") for text in ("ink", "link", "quiet")]
    pairs += [(mark, "panel") for mark in ("met", "violated", "open", "accent")]
    for block in blocks:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for text, on in pairs:
            assert _contrast(colours[text], colours[on]) >= 4.5, (text, on, _contrast(colours[text], colours[on]))


def test_a_stack_that_is_judged_by_another_metric_says_so(document: dict[str, Any]) -> None:
    """As inversion of aggregates is: the name stands beside its value, and no metric is lost from the table below."""
    page = render(document)
    assert "copied (success@1e-2)" not in page
    changed = next(f for f in document["findings"] if f["attack"] == "dlg" and f["stack"] == "clip")
    own = {**changed["metrics"]["identified"], "headline": True}
    changed["metrics"] = {
        "identified": {**changed["metrics"]["identified"], "headline": False},
        "success@1e-2": own,
    }
    page = render(document)
    assert page.count("<b>copied (success@1e-2)</b>") == 1
    assert '<th scope="row">identified</th>' in page
