"""Masked uploads in an audit: passive attacks fall back to the sum, coalitions above the threshold do not need to."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from audit_running import write

from fedsec.audit.api import Audit, AuditResult

INSIDERS = "server+client:1+client:2+client:3+client:4"
MASKED = f"""\
version: 1
name: masked
federation:
  dataset: {{name: digits, train: 60, holdout: 40, auxiliary: 40, test: 60}}
  model: {{name: mlp, hidden: [16]}}
  clients: 6
  rounds: 2
  local: {{batch_size: 8, learning_rate: 0.3}}
attacks:
  - linear-layer-inversion
  - {{name: linear-layer-inversion, position: {INSIDERS}}}
  - {{name: linear-layer-inversion, position: server+helper:1}}
  - source-inference
  - {{name: sign-flip, fraction: 0.2}}
  - robbing-the-fed
defenses:
  - none
  - secure-aggregation
  - {{name: secret-sharing, ring: 64, norm_bound: 1.0, max_weight: 16}}
seeds: [0]
"""


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    folder = tmp_path_factory.mktemp("masked")
    return Audit.load(write(folder, MASKED)).run(folder / "out", jobs=0, progress="none")


def cell(result: AuditResult, attack: str, stack: str) -> dict:
    (found,) = (c for c in result.document["cells"] if (c["attack"], c["stack"]) == (attack, stack))
    return found


def topics(found: dict) -> set[str]:
    return {event["topic"] for event in found["seen"]["events"]}


def test_what_reads_uploads_is_blocked_or_gets_the_sum(masked: AuditResult) -> None:
    for stack in ("secure-aggregation", "secret-sharing"):
        alone = cell(masked, "linear-layer-inversion", stack)
        assert alone["status"] == "measured"
        assert topics(alone) == {"Broadcast", "Aggregate"}
        blocked = cell(masked, "source-inference", stack)
        assert blocked["status"] == "blocked"
        assert "masked: server receives it and cannot open it" in blocked["reason"]
        assert cell(masked, "robbing-the-fed", stack)["status"] == "blocked"
    assert topics(cell(masked, "linear-layer-inversion", "none")) == {"Broadcast", "Upload"}


def test_coalitions_that_open_rows_get_them(masked: AuditResult) -> None:
    """Four of five neighbours are the threshold; servers of secret sharing are something else than clients."""
    assert "Upload" in topics(cell(masked, f"linear-layer-inversion@{INSIDERS}", "secure-aggregation"))
    assert "Upload" not in topics(cell(masked, f"linear-layer-inversion@{INSIDERS}", "secret-sharing"))
    helpers = "linear-layer-inversion@server+helper:1"
    assert "Upload" in topics(cell(masked, helpers, "secret-sharing"))
    assert "Upload" not in topics(cell(masked, helpers, "secure-aggregation"))


def test_poisoning_is_measured_as_in_clear(masked: AuditResult) -> None:
    assert cell(masked, "sign-flip", "secure-aggregation")["status"] == "measured"


def test_the_document_is_valid_and_names_who_opens(masked: AuditResult) -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(masked.document)
    opens = {(row["secret"], row["stack"]): row["coalitions"] for row in masked.document["opens"]}
    assert opens["one client's update", "secret-sharing"] == [["server", "helper:1"]]
    assert ["server"] not in opens["one client's update", "secure-aggregation"]
    assert ["server"] in opens["the aggregate of a round", "secure-aggregation"]
