"""The Python API, gates and exit codes, and the commands that render and plan without running."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from audit_comparison import assert_same
from audit_running import SMALL, TINY, Whole, journal, write

import fedsec
from fedsec.audit.api import Audit, AuditResult
from fedsec.cli.run import run
from fedsec.errors import ConfigurationError, FedsecError, PluginError

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text())


def changed(text: str, **sections: object) -> str:
    """A configuration with sections replaced; those of the federation under their own names."""
    raw = yaml.safe_load(text)
    for name, value in sections.items():
        (raw["federation"] if name in raw["federation"] else raw)[name] = value
    return yaml.safe_dump(raw, sort_keys=False)


def run_here(folder: Path, text: str, **keywords: object) -> AuditResult:
    """Run an audit in this process."""
    options = {"jobs": 0, "progress": "none", **keywords}
    return Audit.load(write(folder, text)).run(folder / "out", **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> AuditResult:
    return run_here(tmp_path_factory.mktemp("tiny"), TINY)


def valid(document: dict[str, object]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_the_package_has_it_at_hand() -> None:
    assert fedsec.Audit is Audit
    assert fedsec.AuditResult is AuditResult


def test_a_result_is_what_was_written(tiny: AuditResult) -> None:
    assert tiny.exit_code == 0
    assert tiny.folder is not None
    assert json.loads((tiny.folder / "audit.json").read_text()) == tiny.document
    assert not [file for file in tiny.folder.iterdir() if file.name.endswith(".tmp")]
    valid(tiny.document)


def test_findings_by_attack_and_stack(tiny: AuditResult) -> None:
    finding = tiny["fgsm", "none"]
    assert (finding["status"], finding["attack"], finding["stack"]) == ("measured", "fgsm", "none")
    with pytest.raises(KeyError, match=r"no finding .*attacks: fgsm, loss-threshold; stacks: none"):
        tiny["fgsm", "krum"]


def test_one_row_per_metric(tiny: AuditResult) -> None:
    frame = tiny.to_frame()
    assert len(frame) == sum(len(finding["metrics"]) for finding in tiny.document["findings"])
    row = frame[(frame.attack == "fgsm") & frame.headline.astype(bool)].iloc[0]
    assert row.low <= row.value <= row.high
    assert row.severity == tiny["fgsm", "none"]["severity"]


def test_what_was_not_measured_has_a_row_too(whole: Whole) -> None:
    frame = AuditResult(whole.document, whole.document["verdict"]).to_frame()
    blocked = frame[frame.status == "blocked"]
    assert {(row.attack, row.stack, row.metric) for row in blocked.itertuples()} == {
        ("linear-layer-inversion", "ckks", "")
    }


def test_a_notebook_shows_the_report_without_running_it(tiny: AuditResult) -> None:
    page = tiny._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "sandbox>" in page
    assert "<script" not in page
    assert page.count("<") == 2


def test_workers_or_none_user_data_or_ours(tmp_path: Path) -> None:
    """A dataset and a model of one's own, by module:function beside the file, in this process and in workers."""
    write(tmp_path, OWN_CODE, "own_code_of_this_test.py")
    own = changed(
        TINY,
        dataset={"load": "own_code_of_this_test:load", "spread": 0.7, "train": 60, "holdout": 40, "test": 60},
        model={"build": "own_code_of_this_test:build", "width": 6},
    )
    file = write(tmp_path, own)
    inline = Audit.load(file).run(tmp_path / "inline", jobs=0, progress="none")
    assert inline.exit_code == 0, [cell["reason"] for cell in inline.document["cells"]]
    valid(inline.document)
    federation = inline.document["federation"]
    assert federation["dataset"]["name"] == "blobs"
    assert federation["model"] == {"name": "own_code_of_this_test:build", "parameters": 5 * 6 + 6 + 6 * 2 + 2}
    assert inline.document["config"]["federation"]["dataset"]["spread"] == 0.7
    workers = Audit.load(file).run(tmp_path / "workers", jobs=2, progress="none")
    assert_same(workers.document, inline.document)


OWN_CODE = """\
import torch

from fedsec.data.build import build_dataset
from fedsec.data.examples import DatasetInfo, Examples


def load(spread: float):
    draws = torch.Generator().manual_seed(3)
    info = DatasetInfo(
        name="blobs",
        summary="two clouds of points",
        task="classification",
        modality="tabular",
        input_shape=(5,),
        classes=("left", "right"),
        bounds=(0.0, 1.0),
        attributes=(),
    )

    def examples(count):
        y = torch.arange(count) % 2
        x = (y[:, None] * 0.3 + 0.35 + spread * 0.3 * torch.randn(count, 5, generator=draws)).clamp(0, 1)
        return Examples(x, y)

    return build_dataset(info, train=examples(200), test=examples(60))


def build(info, width: int):
    return torch.nn.Sequential(
        torch.nn.Linear(info.input_shape[0], width), torch.nn.Tanh(), torch.nn.Linear(width, len(info.classes))
    )
"""


def test_changed_code_of_ones_own_is_run_again(tmp_path: Path) -> None:
    """In processes of their own: a module is imported once."""
    from audit_running import audit

    write(tmp_path, OWN_CODE, "own_code.py")
    own = changed(
        TINY,
        dataset={"load": "own_code:load", "spread": 0.7, "train": 60, "holdout": 40, "test": 60},
        model={"build": "own_code:build", "width": 6},
        attacks=["loss-threshold"],
    )
    file = write(tmp_path, own)
    said = []
    for code in (OWN_CODE, OWN_CODE.replace("Tanh", "ReLU")):
        write(tmp_path, code, "own_code.py")
        done = audit(file, tmp_path / "out", "--jobs", "0", "--progress", "plain")
        assert done.returncode == 0, done.stderr
        said.append(done.stderr.splitlines()[-1].partition(": ")[2])
    assert said == ["2 computed, 0 reused, 0 failed"] * 2


def test_everything_validates(whole: Whole) -> None:
    valid(whole.document)
    with pytest.raises(jsonschema.ValidationError):
        valid({**whole.document, "cells": [{**whole.document["cells"][0], "status": "perhaps"}]})


GATES = [
    ({"attack": "fgsm", "stack": "none", "metric": "severity", "below": "low"}, 1),
    ({"metric": "accuracy", "above": 0.0}, 0),
    ({"metric": "accuracy", "above": 0.999}, 1),
    ({"attack": "loss-threshold", "metric": "auc", "below": 1.01}, 0),
    ({"attack": "loss-threshold", "metric": "auc", "below": 0.01}, 1),
]


@pytest.mark.parametrize(("gate", "code"), GATES)
def test_gates_decide_the_exit_code(tiny: AuditResult, capsys, gate: dict[str, object], code: int) -> None:
    """On the results that are there: a gate changes none of them."""
    assert tiny.folder is not None
    folder = tiny.folder.parent
    file = write(folder, changed(TINY, gates=[gate]), "gated.yaml")
    assert run(["audit", str(file), "-o", str(tiny.folder), "--jobs", "0", "--progress", "plain"]) == code
    seen = capsys.readouterr()
    assert ": 0 computed, 3 reused, 0 failed" in seen.err
    assert f"gate {'VIOLATED' if code else 'met'}: " in seen.out
    assert run(["report", str(tiny.folder / "audit.json"), "--format", "csv"]) == code


def test_a_gate_on_nothing_is_refused(tmp_path: Path) -> None:
    gates = [{"attack": "fgsm", "metric": "acu", "below": 0.5}, {"attack": "dlg", "below": "high"}]
    with pytest.raises(ConfigurationError) as caught:
        run_here(tmp_path, changed(TINY, gates=gates))
    assert len(caught.value.problems) == 2
    file = write(tmp_path, changed(TINY, gates=gates))
    assert run(["audit", str(file)]) == 2


def test_what_is_left_out_is_not_run_and_the_audit_is_incomplete(tmp_path: Path) -> None:
    text = changed(TINY, gates=[{"attack": "fgsm", "metric": "severity", "below": "low"}])
    result = run_here(tmp_path, text, only=["attack=loss-threshold"])
    assert result.exit_code == 1  # the gate speaks of something that nobody measured
    result = run_here(tmp_path, TINY, only=["attack=loss-threshold"])
    assert result.exit_code == 3
    assert not result.document["complete"]
    assert result["fgsm", "none"]["status"] == "not run"
    assert result["loss-threshold", "none"]["status"] == "measured"
    valid(result.document)
    assert {finding["status"] for finding in run_here(tmp_path, TINY).document["findings"]} == {"measured"}


def test_reports_are_rendered_again_without_running(whole: Whole, capsys, tmp_path: Path) -> None:
    before = journal(whole.output)
    forms = {}
    for form in ("html", "markdown", "csv"):
        assert run(["report", str(whole.output / "audit.json"), "--format", form]) == 0
        forms[form] = capsys.readouterr().out
    assert forms["html"] == (whole.output / "report.html").read_text()
    assert "| label-flip" in forms["markdown"]
    assert forms["csv"].splitlines()[0].startswith("attack,")
    assert len(forms["csv"].splitlines()) > 20
    target = tmp_path / "page.html"
    assert run(["report", str(whole.output / "audit.json"), "-o", str(target)]) == 0
    assert target.read_text() == forms["html"]
    assert capsys.readouterr().out == f"{target}\n"
    assert journal(whole.output) == before


def test_a_plan_says_how_much_there_is_and_what_is_done(tmp_path: Path, capsys) -> None:
    file = write(tmp_path, SMALL)
    assert run(["plan", str(file)]) == 0
    said = capsys.readouterr().out
    assert "40 cells = 5 attacks x 4 stacks x 2 seeds" in said
    assert "24 trainings (8 honest, shared by all passive attacks)" in said
    assert "0 results are there already" in said
    assert not (tmp_path / "fedsec-out").exists()

    file = write(tmp_path, TINY)
    loaded = Audit.load(file)
    assert loaded.default_output() == tmp_path / "fedsec-out" / "audit"
    loaded.run(only=["attack=fgsm"], jobs=0, progress="none")
    assert run(["plan", str(file), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["cells"], summary["trainings"], summary["honest"], summary["finished"]) == (2, 1, 1, 2)
    assert summary["seconds"] > 0
    loaded.run(jobs=0, progress="none")
    assert run(["plan", str(file)]) == 0
    said = capsys.readouterr().out
    assert "3 results are there already" in said
    assert " s of one core are left" in said


def test_one_thing_under_two_labels_is_computed_once(tmp_path: Path) -> None:
    text = changed(
        TINY,
        attacks=[
            "loss-threshold",
            {"name": "loss-threshold", "label": "again"},
            {"name": "sign-flip", "fraction": 0.5},
            {"name": "sign-flip", "fraction": 0.5, "label": "flip again"},
        ],
        defenses=["none", {"name": "clip", "c": 1.0}, {"label": "also", "stack": [{"name": "clip", "c": 1.0}]}],
    )
    result = run_here(tmp_path, text)
    assert result.exit_code == 0
    valid(result.document)
    events = [event for _, event in journal(tmp_path / "out")]
    # Two stacks: an honest training with its transcript, one under attack, and two cells each.
    assert events.count("start") == 8
    for attack, other in (("loss-threshold", "again"), ("sign-flip", "flip again")):
        first = numbers(result[attack, "clip"])
        assert first
        assert numbers(result[attack, "also"])["value"] == first["value"]
        assert numbers(result[other, "clip"])["value"] == first["value"]
    utilities = {row["stack"]: row for row in result.document["utilities"]}
    assert utilities["also"]["accuracy"]["value"] == utilities["clip"]["accuracy"]["value"]
    assert [row["status"] for row in result.document["stacks"]] == ["trained"] * 3


def numbers(finding: dict[str, object]) -> dict[str, object]:
    """The headline of a finding."""
    (found,) = [metric for metric in finding["metrics"].values() if metric["headline"]]
    return found


def test_wrong_displays_and_formats_are_refused(tmp_path: Path, tiny: AuditResult) -> None:
    with pytest.raises(FedsecError, match="there is no progress display 'loud'"):
        run_here(tmp_path, TINY, progress="loud")
    from fedsec.audit.api import render

    with pytest.raises(PluginError, match="there is no report 'pdf'"):
        render(copy.deepcopy(tiny.document), "pdf")
