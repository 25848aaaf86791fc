"""What is killed goes on; what fails costs one cell; and the result depends on neither."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import audit_faulty
import pytest
import yaml
from audit_comparison import assert_same
from audit_running import (
    ENVIRONMENT,
    SMALL,
    TINY,
    Whole,
    alive,
    audit,
    begun_again,
    children,
    document,
    finished,
    journal,
    kill,
    line,
    start,
    survivors,
    wait_for,
    write,
)

from fedsec.audit.api import Audit
from fedsec.audit.bench import Workbench
from fedsec.audit.plan import Cell


def computed(done: subprocess.CompletedProcess[str]) -> tuple[int, int, int]:
    """Results that a run with ``--progress json`` computed, found there, and lost."""
    end = json.loads([text for text in done.stderr.splitlines() if text.startswith('{"event": "end"')][-1])
    return end["computed"], end["reused"], end["failed"]


def statuses(found: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(cell["attack"], cell["stack"]): cell["status"] for cell in found["cells"]}


def test_the_whole_audit_is_whole(whole: Whole) -> None:
    """What the other tests compare with: it covers blocked and measured cells, passive and active attacks."""
    assert whole.document["complete"]
    assert {cell["status"] for cell in whole.document["cells"]} == {"measured", "blocked"}
    assert len(whole.document["cells"]) == 40
    assert computed(whole.done) == (64, 0, 0)
    assert not begun_again(journal(whole.output))


def test_killed_five_times_it_says_the_same_and_repeats_nothing(whole: Whole, tmp_path: Path) -> None:
    file, output = write(tmp_path, SMALL), tmp_path / "out"
    draws = random.Random(20)
    for more in draws.sample(range(1, 13), 5):
        process = start(file, output, "--jobs", "2")
        wait_for(output, finished(output) + more, process)
        time.sleep(draws.uniform(0.0, 0.1))
        assert process.poll() is None, "it was over before it could be killed"
        assert children(process.pid), "it had no workers that could survive"
        assert kill(process) == []
        assert not (output / "audit.json").exists()
    before = finished(output)
    done = audit(file, output, "--jobs", "2", "--progress", "json")
    assert done.returncode == 0, done.stderr
    assert_same(document(output), whole.document)
    assert begun_again(journal(output)) == []
    assert computed(done)[1] > 0
    assert before < finished(output)
    assert not list(output.rglob("*.tmp"))


def test_jobs_and_the_order_of_attacks_do_not_matter(whole: Whole, tmp_path: Path) -> None:
    """Two workers, one, none at all; the attacks as in the file or the other way round."""
    inline = Audit.load(whole.file).run(tmp_path / "inline", jobs=0, progress="none")
    assert_same(inline.document, whole.document)
    raw = yaml.safe_load(SMALL)
    raw["attacks"].reverse()
    turned = Audit.load(write(tmp_path, yaml.safe_dump(raw))).run(tmp_path / "turned", jobs=1, progress="none")
    assert_same(turned.document, whole.document, ordered=False)
    with pytest.raises(AssertionError):
        assert_same(turned.document, whole.document)


def test_damaged_files_are_computed_again_and_nothing_else(whole: Whole, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole.output, output)
    cell = whole.document["cells"][0]["key"]
    keys = [cell, next(key for key, event in journal(output) if event == "start" and key != cell)]
    for key in keys:
        path = output / "store" / "artifacts" / key[:2] / f"{key}.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    leftover = path.with_suffix(".99.tmp")
    leftover.write_bytes(b"half")
    again = Audit.load(whole.file).run(output, jobs=0, progress="none")
    assert again.document["environment"]["reused"] == 62
    assert_same(again.document, whole.document)
    assert not leftover.exists()
    assert sorted(key for key, event in journal(output)[-5:] if event == "start") == sorted(keys)


def test_fresh_forgets_and_again_does_nothing(tmp_path: Path) -> None:
    loaded = Audit.load(write(tmp_path, TINY))
    results = [loaded.run(tmp_path / "out", jobs=0, progress="none", fresh=fresh) for fresh in (False, False, True)]
    assert [result.document["environment"]["reused"] for result in results] == [0, 3, 0]
    assert [event for _, event in journal(tmp_path / "out")] == ["start", "finish", "finish"] + ["start", "finish"] * 2
    for other in results[1:]:
        assert_same(other.document, results[0].document)


FAULTY = TINY.replace("attacks:\n", "attacks:\n  - killed\n  - left\n  - raised\n  - sabotage\n")


def test_what_fails_costs_its_cells_and_is_tried_again(tmp_path: Path) -> None:
    environment = audit_faulty.put(tmp_path)
    file, output = write(tmp_path, FAULTY), tmp_path / "out"
    done = audit(file, output, "--jobs", "2", "--progress", "json", **environment)
    assert done.returncode == 3, done.stderr
    found = document(output)
    assert not found["complete"]
    assert not found["verdict"]["complete"]
    good, bad = ("loss-threshold", "fgsm"), ("killed", "left", "raised", "sabotage")
    assert statuses(found) == {
        **{(attack, "none"): "measured" for attack in good},
        **{(attack, "none"): "error" for attack in bad},
    }
    reasons = {cell["attack"]: cell["reason"] for cell in found["cells"]}
    assert reasons["killed"] == "the worker process died (signal 9)"
    assert reasons["left"] == "the worker process died (exit status 7)"
    assert "ZeroDivisionError: <b>nothing</b> to divide by" in reasons["raised"]
    assert reasons["sabotage"].startswith("train none under sabotage, seed 0 failed:")
    assert "ZeroDivisionError: no update to send" in reasons["sabotage"]
    page = (output / "report.html").read_text()
    assert "signal 9" in page
    assert "&lt;b&gt;nothing&lt;/b&gt; to divide by" in page
    assert "<b>nothing</b>" not in page
    assert computed(done) == (3, 0, 5)

    (tmp_path / "fail").unlink()
    done = audit(file, output, "--jobs", "0", "--progress", "json", **environment)
    assert done.returncode == 0, done.stderr
    assert computed(done) == (5, 3, 0)
    assert set(statuses(document(output)).values()) == {"measured"}
    assert begun_again(journal(output)) == []


@pytest.mark.parametrize("error", [SystemExit(7), ZeroDivisionError("by nothing")])
def test_in_this_process_what_fails_costs_its_cells_too(tmp_path: Path, monkeypatch, error: BaseException) -> None:
    real = Workbench.run

    def run(self, task, progress):
        if isinstance(task, Cell) and task.attack == "fgsm":
            raise error
        return real(self, task, progress)

    monkeypatch.setattr(Workbench, "run", run)
    result = Audit.load(write(tmp_path, TINY)).run(tmp_path / "out", jobs=0, progress="none")
    assert result.exit_code == 3
    assert result["fgsm", "none"]["status"] == "error"
    assert repr(error).partition("(")[0] in result["fgsm", "none"]["reason"]
    assert result["loss-threshold", "none"]["status"] == "measured"


LONG = SMALL.replace("seeds: [0, 1]", "seeds: 12")


@pytest.mark.parametrize("count", [0, 5])
def test_ctrl_c_leaves_a_report_of_what_there_is(tmp_path: Path, count: int) -> None:
    file, output = write(tmp_path, LONG), tmp_path / "out"
    output.mkdir()
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            line(file, output, "--jobs", "2"), stdout=said, stderr=said, env=ENVIRONMENT, start_new_session=True
        )
        while not journal(output):
            assert process.poll() is None
            time.sleep(0.02)
        wait_for(output, count, process)
        if count:  # meanwhile nobody else writes there
            other = audit(file, output)
            assert other.returncode == 2
            assert (
                other.stderr == f"error: another audit is writing to {output}; wait for it, or give another --output\n"
            )
        below = children(process.pid)
        # As a terminal does: to the workers, too.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    assert "interrupted" in text
    assert survivors(below) == []
    found = document(output)
    assert not found["complete"]
    assert "not run" in statuses(found).values()
    assert "error" not in statuses(found).values()
    assert finished(output) >= count
    assert "not run" in (output / "report.html").read_text()


def test_what_is_dead_is_not_alive() -> None:
    """The watch over survivors sees processes."""
    process = subprocess.Popen(["sleep", "60"])
    assert alive(process.pid)
    assert process.pid in children(os.getpid())
    process.kill()
    assert survivors([process.pid]) == []
    process.wait()
