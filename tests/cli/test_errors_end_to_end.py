"""What a user mistypes is said on standard error with exit code 2, before anything trains or is written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsec.cli.run import run

GOOD = """\
version: 1
federation:
  dataset: {name: digits, train: 60, holdout: 40, test: 60}
  model: softmax
  clients: 7
  rounds: 2
attacks:
  - loss-threshold
  - {name: fgsm, eps: 0.1}
defenses:
  - none
seeds: [0]
"""

SIX_MISTAKES = """\
version: 1
federation:
  dataset: {name: digts, train: 60}
  model: {name: mlp, hiden: [16]}
  clients: 7
  rounds: 0
attacks:
  - {name: fgsm, eps: -0.1}
defenses:
  - krun
seeds: [0]
gate:
  - {metric: severity, below: high}
"""


@pytest.fixture
def refused(capsys, tmp_path: Path, monkeypatch):
    """Runs a command that must be refused; returns the lines that it says. It may write nothing."""
    monkeypatch.chdir(tmp_path)

    def command(text: str, *arguments: str, name: str = "audit") -> list[str]:
        file = tmp_path / "audit.yaml"
        file.write_text(text)
        before = sorted(tmp_path.rglob("*"))
        code = run([name, str(file), *arguments])
        seen = capsys.readouterr()
        assert (code, seen.out) == (2, ""), seen
        assert sorted(tmp_path.rglob("*")) == before
        lines = seen.err.splitlines()
        if len(lines) > 1:
            assert lines.pop() == f"{len(lines)} errors"
        assert all(line.startswith("error: ") for line in lines)
        return [line.removeprefix("error: ") for line in lines]

    return command


def test_the_good_one_is_good(capsys, tmp_path: Path) -> None:
    file = tmp_path / "audit.yaml"
    file.write_text(GOOD)
    assert run(["plan", str(file)]) == 0
    assert "2 cells = 2 attacks x 1 stacks x 1 seeds" in capsys.readouterr().out


def test_six_mistakes_are_six_lines_with_numbers_and_suggestions(tmp_path: Path) -> None:
    """In a process of its own, as it is typed."""
    file = tmp_path / "audit.yaml"
    file.write_text(SIX_MISTAKES)
    done = subprocess.run(
        [sys.executable, "-m", "fedsec", "audit", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    *lines, count = done.stderr.splitlines()
    assert count == "6 errors"
    found = [re.match(r"error: (.*?):(\d+) (\S+): ", line) for line in lines]
    assert all(found), lines
    assert {match[1] for match in found if match} == {str(file)}
    assert [(int(match[2]), match[3]) for match in found if match] == [
        (3, "federation.dataset.name"),
        (4, "federation.model.hiden"),
        (6, "federation.rounds"),
        (8, "attacks[0].eps"),
        (10, "defenses[0]"),
        (12, "gate"),
    ]
    for line, words in zip(lines, ("'digits'", "'hidden'", ">= 1", ">", "'krum'", "'gates'"), strict=True):
        assert words in line
    assert not (tmp_path / "fedsec-out").exists()


@pytest.mark.parametrize("name", ["plan", "audit"])
@pytest.mark.parametrize("stack", ["[ckks, {name: krum, fraction: 0.1}]", "[{name: krum, fraction: 0.1}, ckks]"])
def test_krum_behind_ckks_is_refused_with_what_would_work(refused, name: str, stack: str) -> None:
    (line,) = refused(GOOD.replace("  - none\n", f"  - none\n  - {stack}\n"), name=name)
    assert re.search(r"audit\.yaml:12 defenses \((ckks\+krum|krum\+ckks)\): ", line)
    assert "found krum behind ckks" in line
    assert "krum must read plain updates to compare single updates" in line
    assert "Use a rule that only needs sums" in line
    assert "measure krum and ckks as two stacks" in line


def test_every_stack_that_cannot_work_is_named(refused) -> None:
    text = GOOD.replace("  - none\n", "  - [ckks, coordinate-median]\n  - [ckks, foolsgold]\n")
    lines = refused(text)
    assert [line.partition("): ")[0].rpartition("(")[2] for line in lines] == [
        "ckks+coordinate-median",
        "ckks+foolsgold",
    ]


def test_filters_that_name_nothing(refused) -> None:
    lines = refused(GOOD, "--only", "attack=fgms", "--only", "stak=none", "--only", "seed=7", "--only", "fgsm")
    assert len(lines) == 4
    assert all(line.startswith("--only: expected attack=LABEL, stack=LABEL or seed=N, found ") for line in lines)
    assert "Known here: fgsm, loss-threshold." in lines[0]
    assert "Known here: attack, seed, stack." in lines[1]
    assert "Known here: 0." in lines[2]


@pytest.mark.parametrize("name", ["plan", "audit"])
def test_overrides_that_cannot_be(refused, name: str) -> None:
    pairs = ["federation.rounds=x", "nonsense", "federation.modle=mlp", "attacks[5].eps=1"]
    lines = refused(GOOD, *[part for pair in pairs for part in ("--set", pair)], name=name)
    assert len(lines) == 4, lines
    text = "\n".join(lines)
    for words in ("federation.rounds: expected integer >= 1", '"nonsense"', "Did you mean 'model'?", "attacks[5]"):
        assert words in text


def test_what_only_the_data_tells(refused, monkeypatch, tmp_path: Path) -> None:
    (line,) = refused(GOOD, "--set", "federation.clients=500", "--set", "federation.clients_per_round=5")
    assert "federation.partition" in line
    assert "Use at most 60 clients" in line
    monkeypatch.setenv("FEDSEC_DATA", str(tmp_path / "none"))
    (line,) = refused(GOOD, "--set", "federation.dataset.name=mnist")
    assert "fedsec data fetch mnist" in line
    (line,) = refused(GOOD, "--set", 'federation.model={build: "nowhere_to_be_found:build"}')
    assert "there is no module 'nowhere_to_be_found'" in line


def test_places_that_cannot_be_written(refused, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    (line,) = refused(GOOD, "--output", str(tmp_path / "taken"))
    assert "cannot be written" in line
    assert "--output" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1", "cannot be read as audit.json"),
        (json.dumps({"schema": "fedsec/audit/2"}), "is not a fedsec/audit/1 document"),
        (json.dumps([]), "is not a fedsec/audit/1 document"),
        (json.dumps({"schema": "fedsec/audit/1"}), "has no verdict"),
        (json.dumps({"schema": "fedsec/audit/1", "verdict": {}}), "has no verdict"),
    ],
)
def test_what_is_no_result_file(refused, text: str, words: str) -> None:
    (line,) = refused(text, name="report")
    assert words in line


def test_reports_that_cannot_be_made(refused, tmp_path: Path) -> None:
    verdict = {"status": "no gates", "complete": True, "worst": None, "sentence": "", "gates": []}
    text = json.dumps({"schema": "fedsec/audit/1", "verdict": verdict, "attacks": [], "stacks": [], "findings": []})
    (line,) = refused(text, "--format", "htm", name="report")
    assert "Did you mean 'html'?" in line
    (line,) = refused(text, "--output", str(tmp_path / "no" / "page.html"), name="report")
    assert "cannot be written" in line


def test_ctrl_c_that_a_library_turns_into_an_error_is_still_ctrl_c(monkeypatch, tmp_path: Path) -> None:
    from fedsec.audit import commands

    def half_imported(*_arguments, **_keywords) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("cannot load module more than once per process") from None
        return 0

    monkeypatch.setattr(commands, "audit", half_imported)
    (tmp_path / "audit.yaml").write_text(GOOD)
    before = signal.getsignal(signal.SIGINT)
    assert run(["audit", str(tmp_path / "audit.yaml")]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(commands, "audit", lambda *a, **k: int("a defect"))
    with pytest.raises(ValueError, match="a defect"):
        run(["audit", str(tmp_path / "audit.yaml")])
