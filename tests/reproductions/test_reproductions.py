from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsec.cli.repro import table
from fedsec.cli.run import run as command
from fedsec.config import config_from
from fedsec.errors import ConfigurationError, FedsecError
from fedsec.reproductions.catalogue import load, names
from fedsec.reproductions.run import run

AUDIT = """\
title: Flipped labels hurt
source: closed form
setting: digits, tiny
minutes: 0.1
audit:
  version: 1
  name: tiny
  federation:
    dataset: {name: digits, train: 100, holdout: 50, auxiliary: 50}
    model: softmax
    clients: 4
    rounds: 1
  attacks: [loss-threshold]
  seeds: [0]
figures:
  - {name: AUC, read: "loss-threshold|none | auc", published: 0.5, low: 0, high: 1, unit: area, source: nowhere}
  - {name: accuracy, read: "none | none | accuracy", low: 2, high: 3, source: impossible}
  - {name: lost, read: "nobody | none | auc", low: 0, high: 1, source: missing}
"""


def measured() -> dict[str, float | tuple[float, float, float]]:
    return {"one": 1.0, "two": (2.0, 1.5, 2.5)}


def placed(output: Path, *, jobs: int | None, progress: str) -> dict[str, float]:
    output.mkdir(parents=True)
    (output / "kept").write_text(progress)
    return {"one": float(jobs or 0), "two": 2.0}


FUNCTION = """\
title: Numbers
source: closed form
setting: none
minutes: 0.1
measure: tests.reproductions.test_reproductions:measured
figures:
  - {name: the first, read: one, published: 1.0, low: 0.9, high: 1.1, source: here}
  - {name: the second, read: two, low: 1.9, high: 2.1, source: here}
"""


def file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", names())
def test_shipped_files_are_right(name: str) -> None:
    recipe = load(name).recipe
    assert recipe.figures
    if recipe.audit is not None:
        config_from(recipe.audit)


def test_an_audit_is_run_and_read(tmp_path: Path) -> None:
    compared = run(load(file(tmp_path, AUDIT)), output=tmp_path / "out", jobs=0, progress="none")
    area, accuracy, lost = compared.rows
    assert area.holds
    assert area.low is not None
    assert accuracy.value is not None
    assert not accuracy.holds
    assert lost.value is None
    assert "loss-threshold | none | auc" in lost.reason
    assert not compared.holds
    text = table(compared)
    assert "OUTSIDE" in text
    assert "1 of 3 figures" in text


def test_a_function_is_run_and_read(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "fedsec.reproductions.run.importlib.import_module", lambda name: __import__(__name__, fromlist=["x"])
    )
    assert command(["repro", file(tmp_path, FUNCTION), "--json", "-o", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["measured"] for row in document["figures"]] == [1.0, 2.0]
    assert document["holds"]


def test_a_function_may_keep_results_where_it_is_told_to(tmp_path: Path) -> None:
    chosen = load(file(tmp_path, FUNCTION.replace(":measured", ":placed")))
    compared = run(chosen, output=tmp_path / "out", jobs=1, progress="none")
    assert [row.value for row in compared.rows] == [1.0, 2.0]
    assert (tmp_path / "out" / "kept").read_text() == "none"


def test_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    wrong = FUNCTION.replace("minutes: 0.1", "minutes: never").replace("low: 1.9", "low: 7").replace("title", "titel")
    with pytest.raises(ConfigurationError) as refused:
        load(file(tmp_path, wrong))
    assert {problem.line for problem in refused.value.problems} >= {1, 4, 8}


def test_unknown_names_are_answered(capsys) -> None:
    with pytest.raises(FedsecError, match="no reproduction 'nothing'"):
        load("nothing")
    assert command(["repro", "nothing"]) == 2


def test_list(capsys) -> None:
    assert command(["repro", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names())
