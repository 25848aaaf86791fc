from __future__ import annotations

import io
import json
import sys

import pytest

from fedsec.audit.progress import MODES, Clock, JsonLines, Lines, Rich, make_display, readable
from fedsec.errors import FedsecError


def test_time_left_is_known_once_every_kind_was_timed() -> None:
    clock = Clock({"training": 2, "cell": 4}, {}, 2)
    assert clock.left is None
    clock.took("training", 6.0)
    assert clock.left is None
    clock.took("cell", 1.0)
    assert clock.left == (1 * 6.0 + 3 * 1.0) / 2
    clock.took("cell", 3.0)
    assert clock.left == (1 * 6.0 + 2 * 2.0) / 2
    clock.lost("training")  # a failure is over, and says nothing about how long others take
    assert clock.left == 2 * 2.0 / 2


def test_earlier_runs_are_an_estimate_from_the_start() -> None:
    assert Clock({"cell": 3}, {"cell": 2.0, "training": 9.0}, 1).left == 6.0
    assert Clock({}, {}, 1).left == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "time left unknown"), (12.4, "12 s left"), (90, "2 min left"), (7200, "2.0 h left")]
)
def test_seconds_for_people(seconds: float | None, text: str) -> None:
    assert readable(seconds) == text


def play(display) -> None:
    """A run of three tasks, of which one fails, after one that was there already."""
    display.begin(4, 1, {"training": 1, "cell": 2}, {}, 2)
    display.started("a", "train")
    display.moved("a", 1, 2)
    display.finished("a", "training", 2.0)
    display.started("b", "[cell] <b>")
    display.failed("b", "cell", "[cell] <b>", "Traceback\nValueError: why [not]")
    display.started("c", "cell")
    display.finished("c", "cell", 1.0)
    display.end(2, 1, 1, 3.0, interrupted=False)


def test_plain_lines() -> None:
    stream = io.StringIO()
    play(Lines(stream))
    assert stream.getvalue().splitlines() == [
        "4 results: 1 are there already, to do: 1 trainings, 2 cells, 2 at a time",
        "2/4 (50%), time left unknown",
        "FAILED [cell] <b>: ValueError: why [not]",
        "4/4 (100%), 0 s left",
        "done in 3 s: 2 computed, 1 reused, 1 failed",
    ]


def test_json_lines() -> None:
    stream = io.StringIO()
    play(JsonLines(stream))
    events = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == [
        "begin", "started", "moved", "finished", "started", "failed", "started", "finished", "end",
    ]  # fmt: skip
    assert events[-1] | {"time": 0} == {
        "event": "end", "time": 0, "computed": 2, "reused": 1, "failed": 1, "seconds": 3.0, "interrupted": False,
    }  # fmt: skip


def test_bars_show_the_whole_reason_as_text(capsys) -> None:
    play(Rich())
    seen = capsys.readouterr()
    assert seen.out == ""
    for words in ("FAILED [cell] <b>", "ValueError: why [not]", "done in 3 s: 2 computed, 1 reused, 1 failed"):
        assert words in seen.err


def test_the_display_fits_where_it_is_shown(monkeypatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_display("auto"), Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(make_display("auto"), Rich)
    monkeypatch.setenv("CI", "true")
    assert isinstance(make_display("auto"), Lines)
    for mode in MODES:
        play(make_display(mode))
    with pytest.raises(FedsecError, match="there are auto, rich, plain, json, none"):
        make_display("loud")
