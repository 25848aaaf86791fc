"""The canary audit in a configuration: metrics, notes and the ledger as the report gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsec.audit.api import Audit, AuditResult

CONFIGURATION = """
version: 1
name: canaries
federation:
  dataset: {name: digits, train: 80, test: 60}
  model: {name: mlp, hidden: [32]}
  clients: 4
  rounds: 2
  local: {batch_size: 20, learning_rate: 0.1}
attacks:
  - {name: canary-audit, canaries: 60}
  - {label: as-a-client, name: canary-audit, canaries: 60, sees: broadcasts}
  - {label: as-the-server, name: canary-audit, canaries: 60, sees: server}
defenses:
  - none
  - {label: dp, stack: [{name: dp-client, noise_multiplier: 3.0, clip_norm: 0.5}]}
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    folder: Path = tmp_path_factory.mktemp("canaries")
    (folder / "audit.yaml").write_text(CONFIGURATION)
    return Audit.load(folder / "audit.yaml").run(folder / "out", jobs=0, progress="none")


def test_every_cell_is_measured_and_confidentiality_is_what_it_is_about(result: AuditResult) -> None:
    assert result.exit_code == 0
    assert {finding["status"] for finding in result.document["findings"]} == {"measured"}
    assert result["canary-audit", "none"]["metrics"]["auc"]["value"] > 0.99


def test_the_bound_stands_beside_the_claim(result: AuditResult) -> None:
    stack = next(stack for stack in result.document["stacks"] if stack["label"] == "dp")
    claim = next(claim for claim in stack["claims"] if claim["defense"] == "dp-client")
    for attack in ("canary-audit", "as-a-client"):
        bound = result[attack, "dp"]["metrics"]["epsilon_lower_bound"]
        assert 0 <= bound["value"] <= claim["epsilon"] < bound["ceiling"]
        assert bound["unit"] == "epsilon"
        assert not [note for note in result[attack, "dp"]["notes"] if note.startswith("BROKEN")]
    # two seeds, each at 97.5 %: the ceiling is below that of one
    none = result["canary-audit", "none"]["metrics"]["epsilon_lower_bound"]
    assert none["value"] == pytest.approx(none["ceiling"], rel=0.2)


def test_what_the_server_sees_is_not_held_against_a_claim_that_does_not_cover_it(result: AuditResult) -> None:
    metrics = result["as-the-server", "dp"]["metrics"]
    assert "epsilon_lower_bound" not in metrics
    assert metrics["epsilon_lower_bound_unclaimed"]["value"] > 2


def test_the_ledger_names_what_was_read(result: AuditResult) -> None:
    seen = {
        cell["attack"]: {event["topic"]: event["count"] for event in cell["seen"]["events"]}
        for cell in result.document["cells"]
        if cell["stack"] == "dp" and cell["seed"] == 0
    }
    assert seen["canary-audit"] == {"Release": 1}
    assert seen["as-a-client"] == {"Broadcast": 2, "Release": 1}
    assert seen["as-the-server"] == {"Upload": 2 * 64, "Release": 1}
    positions = {cell["attack"]: cell["seen"]["position"] for cell in result.document["cells"]}
    assert positions["as-a-client"] == "client:4 and 59 more identities"
