"""An audit of a federation in which some train adversarially and some feign robustness, from its file to the report."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from audit_running import write

from fedsec.audit.api import Audit

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text(encoding="utf-8"))

MIXED = """\
version: 1
name: mixed
federation:
  dataset: {name: digits, train: 400, holdout: 0, auxiliary: 0, test: 200}
  partition: {name: dirichlet, alpha: 1.0}
  model: {name: mlp, hidden: [16]}
  algorithm: {name: fedavg, weighting: uniform}
  clients: 10
  rounds: 10
  local: {epochs: 2, batch_size: 10, learning_rate: 0.3}
attacks:
  - {name: masked-robustness, fraction: 0.2, first_round: 9}
defenses:
  - none
  - {label: mixed, stack: [{name: pgd-at, steps: 2, share: 0.5}, {name: multi-krum, fraction: 0.2}]}
seeds: [0]
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    found = Audit.load(write(folder, MIXED)).run(folder / "out", jobs=0, progress="none").document
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    return found


def test_a_rule_drops_those_who_feign_and_how_those_fare_who_train_is_said(document):
    found = {row["stack"]: row for row in document["findings"]}
    assert found["none"]["metrics"]["detection_tpr"]["value"] == 0
    mixed = found["mixed"]["metrics"]
    assert mixed["detection_tpr"]["value"] == 1
    within = mixed["honest_excluded_within_share"]
    assert 0 <= within["value"] <= 1
    assert within["floor"] is not None
    assert "honest_excluded_within_share" not in found["none"]["metrics"]
    usage = {row["stack"]: row["diagnostics"] for row in document["utilities"]}
    assert usage["mixed"]["share.within"] == 0.5
    dropped = [usage["mixed"][f"share.{group}.dropped"] for group in ("within", "outside")]
    assert sum(dropped) / 2 == pytest.approx(0.2)
    assert not any(name.startswith("share.") for name in usage["none"])


def test_the_attacked_model_is_asked_and_so_is_the_honest_one(document):
    metrics = next(row for row in document["findings"] if row["stack"] == "none")["metrics"]
    naive, robust, hidden = (metrics[n] for n in ("naive_accuracy", "robust_accuracy", "false_robustness"))
    assert naive["value"] - robust["value"] == pytest.approx(hidden["value"], abs=1e-6)
    assert naive["floor"] - robust["floor"] == pytest.approx(hidden["floor"], abs=1e-6)
    assert naive["value"] > naive["floor"] + 0.05
    assert robust["value"] < robust["floor"] + 0.15
