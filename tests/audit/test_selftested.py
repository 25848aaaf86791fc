"""Known answers in an audit: asked for once, kept, and the same however often the audit runs."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from audit_running import write

from fedsec.audit.api import Audit

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text(encoding="utf-8"))
SMALL = """\
version: 1
name: small
federation:
  dataset: {name: digits, train: 40, holdout: 20, auxiliary: 20, test: 20}
  model: {name: softmax}
  clients: 4
  rounds: 1
attacks: [{name: sign-flip, fraction: 0.25}]
defenses:
  - none
  - clip
  - [clip, {name: trimmed-mean, f: 1}]
  - {name: clip, c: 0.5, label: tighter}
seeds: [0]
"""


def test_they_are_tried_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit.load(write(tmp_path, SMALL))
    plain = audit.run(tmp_path / "out", jobs=0, progress="none").document
    assert "selftests" not in plain
    found = audit.run(tmp_path / "out", jobs=0, progress="none", check_defenses=True).document
    assert [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(found)] == []
    rows = {(row["defense"], row["parameters"].get("c")): row for row in found["selftests"]}
    assert set(rows) == {("clip", 1.0), ("trimmed-mean", None), ("clip", 0.5)}
    assert rows["clip", 1.0]["stacks"] == ["clip", "clip+trimmed-mean"]
    assert all(row["holds"] for row in rows.values())
    assert rows["trimmed-mean", None]["applied"] == 0

    def never(*_: object, **__: object) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr("fedsec.audit.selftested.check_defense", never)
    again = audit.run(tmp_path / "out", jobs=0, progress="none").document
    assert again["selftests"] == found["selftests"]
