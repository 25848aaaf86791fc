"""Geometry, images, numbers and judgements of the reports, each against an independent truth."""

from __future__ import annotations

import base64
import doctest
import io
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fedsec.reports.charts
import fedsec.reports.exhibits
import fedsec.reports.format
from fedsec.reports import charts, costs, images, overview, severity
from fedsec.reports.document import read
from fedsec.reports.format import rounds, significant

finite = st.floats(-1e9, 1e9, allow_nan=False)


@pytest.mark.parametrize("module", [fedsec.reports.format, fedsec.reports.charts, fedsec.reports.exhibits])
def test_the_examples_in_the_docstrings_hold(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@settings(deadline=None, max_examples=200)
@given(st.floats(1e-4, 9e6))
def test_three_significant_digits_are_kept(value: float) -> None:
    shown = float(significant(value).replace(",", "").replace("−", "-"))
    assert shown == pytest.approx(float(f"{value:.3g}"), rel=1e-9)


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 60), min_size=1))
def test_runs_of_rounds_name_exactly_these_rounds(numbers: set[int]) -> None:
    named = set()
    for part in rounds(sorted(numbers)).split(", "):
        first, _, last = part.partition("–")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == numbers


@settings(deadline=None, max_examples=200)
@given(finite, st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_lie_inside_and_are_evenly_spaced(low: float, span: float, count: int) -> None:
    high = low + span
    ticks = charts.nice_ticks(low, high, count)
    slack = span * 1e-6 + abs(low) * 1e-9
    assert len(ticks) <= count + 1
    assert all(low - slack <= t <= high + slack for t in ticks)
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    assert all(g == pytest.approx(gaps[0], rel=1e-3, abs=1e-6) for g in gaps)


@settings(deadline=None, max_examples=100)
@given(st.lists(finite, min_size=2, max_size=20))
def test_a_scale_keeps_the_order_and_stays_inside(values: list[float]) -> None:
    low, high = charts.domain(values)
    scale = charts.Scale(low, high, 8.0, 272.0)
    placed = [scale.place(v) for v in sorted(values)]
    assert placed == sorted(placed)
    assert all(8.0 <= p <= 272.0 for p in placed)


def test_a_logarithmic_scale_puts_decades_apart_evenly() -> None:
    scale = charts.Scale(0.001, 1.0, 0.0, 300.0, log=True)
    assert [scale.place(v) for v in (0.0, 0.001, 0.01, 0.1, 1.0)] == [0.0, 0.0, 100.0, 200.0, 300.0]


def test_thinning_keeps_both_ends() -> None:
    points = [(float(k), float(k)) for k in range(1000)]
    thinned = charts.thin(points, 50)
    assert len(thinned) == 50
    assert thinned[0] == points[0]
    assert thinned[-1] == points[-1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels_it_was_given(channels: int) -> None:
    shape = [channels, 4, 5]
    count = channels * 20
    values = [-1 + 2 * k / (count - 1) for k in range(count)]
    image = Image.open(io.BytesIO(images.png(values, shape, (-1.0, 1.0))))
    assert image.size == (5, 4)
    for c in range(channels):
        for i in range(4):
            for j in range(5):
                pixel = image.getpixel((j, i))
                found = pixel[c] if channels == 3 else pixel
                assert found == round(255 * (values[c * 20 + i * 5 + j] + 1) / 2)


def test_large_images_become_thumbnails_and_broken_ones_are_refused() -> None:
    uri = images.data_uri([0.5] * (200 * 100), [1, 200, 100], (0.0, 1.0))
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert max(image.size) == images.LARGEST_SIDE
    with pytest.raises(ValueError, match="12 values, found 3"):
        images.png([0.0, 0.0, 0.0], [3, 2, 2], (0.0, 1.0))


def test_values_that_are_no_numbers_are_black() -> None:
    image = Image.open(io.BytesIO(images.png([None, float("nan"), 1.0, 2.0], [1, 2, 2], (0.0, 1.0))))
    assert list(image.tobytes()) == [0, 0, 255, 255]


def test_categories_follow_from_the_threat_model_and_from_no_name() -> None:
    assert severity.category_of({"active": True, "capabilities": ["testing data control"]}) == "Integrity"
    assert severity.category_of({"active": False, "capabilities": ["testing data control"]}) == "Evasion robustness"
    assert severity.category_of({"name": "poisoning", "capabilities": ["query access"]}) == "Confidentiality"


def test_a_card_shows_the_worst_attack_and_no_incomplete_stack_is_best(document: dict[str, Any]) -> None:
    audit = read(document)
    confidentiality, integrity, _ = overview.cards(audit, overview.Anchors(audit))
    worst = max(
        f["metrics"]["identified"]["advantage_high"]
        for f in document["findings"]
        if f["stack"] == "none" and "identified" in f["metrics"]
    )
    assert confidentiality.undefended is not None
    shown = audit.finding(confidentiality.undefended.attack, "none")
    assert shown["metrics"]["identified"]["advantage_high"] == worst
    assert confidentiality.best is not None
    assert confidentiality.best.stack == "dp-local"
    for finding in document["findings"]:
        if finding["stack"] == "dp-local" and finding["attack"] == "dlg":
            finding.update(status="error", severity=None, metrics={}, reason="broken")
    again = overview.cards(read(document), overview.Anchors(audit))[0]
    assert again.best is None or again.best.stack != "dp-local"
    assert integrity.remarks
    assert "alie" in integrity.remarks[0]


@pytest.mark.parametrize("cheap", ["dp-local", "clip"])
def test_of_stacks_that_cannot_be_told_apart_the_cheapest_is_best(document: dict[str, Any], cheap: str) -> None:
    told = {f["attack"]: f for f in document["findings"] if f["stack"] == "dp-local"}
    for finding in document["findings"]:
        if finding["stack"] == "clip":
            finding.update({key: value for key, value in told[finding["attack"]].items() if key != "stack"})
    for spent in document["utilities"]:
        if spent["stack"] in ("dp-local", "clip"):
            spent.update(accuracy_drop={"value": 0.0, "low": 0.0, "high": 0.0, "n": 100}, ratio_seconds=1.0)
            spent["ratio_upload"] = 1.0 if spent["stack"] == cheap else 9.0
    audit = read(document)
    best = overview.cards(audit, overview.Anchors(audit))[0].best
    assert best is not None
    assert best.stack == cheap
    assert len({"dp-local", "clip"} & {best.stack, *best.alike}) == 2


def test_no_stack_is_best_where_no_attack_works_on_the_control(document: dict[str, Any]) -> None:
    for finding in document["findings"]:
        if finding["family"] in ("poisoning", "sybil"):
            finding["control_succeeded"] = False
    audit = read(document)
    _, integrity, _ = overview.cards(audit, overview.Anchors(audit))
    assert integrity.best is None
    assert "no stack can be called best" in integrity.remarks[-1]


def test_labels_that_look_alike_keep_their_own_anchors() -> None:
    stacks = [{"label": label, "defenses": []} for label in ("a b", "a-b", "A_B", "<>", "††")]
    audit = read({"schema": "fedsec/audit/1", "stacks": stacks})
    anchors = overview.Anchors(audit)
    named = [anchors.stack(label) for label in audit.stacks]
    assert len(set(named)) == 5
    assert all(name.replace("-", "").isalnum() and name.isascii() for name in named)


def test_what_becomes_of_the_clients_that_train_adversarially_is_said_in_words() -> None:
    diagnostics = {
        "multi-krum.f": 4.0,
        "share.within": 0.3,
        "share.within.dropped": 0.4833,
        "share.outside.dropped": 0.0786,
        "share.within.score": 1.541,
        "share.outside.score": 0.9714,
    }
    assert costs._remarks({"diagnostics": diagnostics}) == [
        "multi-krum.f 4.0",
        "30.0% of the clients run the local defense",
        "dropped: 48.3% of these, 7.86% of the others",
        "mean suspicion: 1.54 of these, 0.971 of the others",
    ]
    assert costs._remarks({"diagnostics": {"share.within": 0.5, "share.within.dropped": 0.0}})[-1] == (
        "dropped: 0% of these, — of the others"
    )
    assert costs._remarks({"diagnostics": {"multi-krum.f": 4.0}}) == ["multi-krum.f 4.0"]
