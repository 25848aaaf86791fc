"""An audit in which a part of each update crosses in clear: the part is attacked, and the report says so."""

from __future__ import annotations

import pytest
from audit_running import write

from fedsec.audit.api import Audit

PARTLY = """\
version: 1
name: partly
federation:
  dataset: {name: digits, train: 40, holdout: 0, auxiliary: 8, test: 50}
  model: softmax
  algorithm: {name: fedavg, weighting: uniform}
  clients: 4
  rounds: 1
  local: {epochs: 1, batch_size: null, learning_rate: 0.5}
attacks:
  - {name: inverting-gradients, iterations: 24, restarts: 1, targets: 1}
defenses:
  - none
  - {label: few, stack: [{name: selective-encryption, share: 0.1, examples: 8}]}
  - {label: all, stack: [{name: selective-encryption, share: 1.0, examples: 8}]}
seeds: [0]
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partly")
    return Audit.load(write(folder, PARTLY)).run(folder / "out", jobs=0, progress="none").document


def test_the_open_part_is_attacked_and_the_report_says_so(document):
    found = {row["stack"]: row for row in document["findings"]}
    assert found["none"]["status"] == found["few"]["status"] == "measured"
    assert not any("left open" in note for note in found["none"]["notes"])
    assert any("90.0% of the coordinates" in note for note in found["few"]["notes"])
    assert found["all"]["status"] == "blocked"
    assert "cannot open" in found["all"]["reason"]
