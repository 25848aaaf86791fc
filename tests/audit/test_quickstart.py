"""The quickstart as its user runs it, and the facts of the threat model that must hold on it."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
SERVER_INVERSIONS = ("linear-layer-inversion", "dlg", "inverting-gradients")
POISONINGS = ("label-flip", "targeted-label-flip", "sign-flip", "alie", "sybil")
EVASIONS = ("fgsm", "pgd")
Document = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, "-m", "fedsec", "audit", str(ROOT / "examples/quickstart.yaml"), "--output", str(out)]
    run = subprocess.run([*command, "--progress", "plain"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def document(folder: Path) -> Document:
    loaded: Document = json.loads((folder / "audit.json").read_text())
    return loaded


def finding(document: Document, attack: str, stack: str) -> Document:
    found: Document = next(f for f in document["findings"] if (f["attack"], f["stack"]) == (attack, stack))
    return found


def headline(document: Document, attack: str, stack: str) -> Document:
    metrics = finding(document, attack, stack)["metrics"].values()
    found: Document = next(m for m in metrics if m["headline"])
    return found


def test_it_is_complete_and_large_enough(document: Document) -> None:
    assert document["complete"]
    assert {cell["status"] for cell in document["cells"]} <= {"measured", "blocked"}
    assert len(document["attacks"]) >= 9
    assert len(document["stacks"]) >= 8
    assert len(document["config"]["seeds"]) == 3
    assert len(document["cells"]) == len(document["attacks"]) * len(document["stacks"]) * 3
    families = {attack["family"] for attack in document["attacks"]}
    assert families >= {
        "gradient inversion",
        "property inference",
        "membership inference",
        "data poisoning",
        "model poisoning",
        "sybil",
        "adversarial examples",
    }


def test_it_follows_the_published_schema(document: Document) -> None:
    schema = json.loads((ROOT / "docs/audit.schema.json").read_text())
    jsonschema.validate(document, schema)


def test_the_undefended_control_of_each_attack_succeeds(document: Document) -> None:
    for attack in document["attacks"]:
        control = finding(document, attack["label"], "none")
        assert control["control_succeeded"], attack["label"]
        if attack["family"] == "membership inference" or attack["label"].endswith("@client:0"):
            # some examples among hundreds behind an aggregate
            number = headline(document, attack["label"], "none")
            assert number["low"] > number["floor"]
        else:
            assert control["severity"] in ("high", "critical"), attack["label"]


@pytest.mark.parametrize("attack", SERVER_INVERSIONS)
def test_server_side_noise_leaves_inversion_at_the_server_as_it_was(document: Document, attack: str) -> None:
    control, defended = headline(document, attack, "none"), headline(document, attack, "dp-client")
    assert defended["low"] <= control["high"]
    assert control["low"] <= defended["high"]
    assert abs(defended["value"] - control["value"]) < 0.1


@pytest.mark.parametrize("attack", [*SERVER_INVERSIONS, "property-inference"])
def test_local_noise_lowers_it(document: Document, attack: str) -> None:
    control, defended = headline(document, attack, "none"), headline(document, attack, "dp-local")
    assert defended["high"] < control["low"]


@pytest.mark.parametrize("attack", [*SERVER_INVERSIONS, "property-inference"])
@pytest.mark.parametrize("stack", ["ckks", "dp-client+ckks"])
def test_encryption_leaves_the_server_nothing_to_read(document: Document, attack: str, stack: str) -> None:
    found = finding(document, attack, stack)
    assert found["status"] == "blocked"
    assert found["metrics"] == {}
    assert "cannot open it" in found["reason"]
    for cell in document["cells"]:
        if (cell["attack"], cell["stack"]) == (attack, stack):
            assert cell["seen"]["events"] == []


def test_encryption_leaves_a_curious_client_the_aggregate_only(document: Document) -> None:
    cells = [c for c in document["cells"] if c["attack"] == "linear-layer-inversion@client:0" and c["stack"] == "ckks"]
    assert len(cells) == 3
    for cell in cells:
        assert cell["status"] == "measured"
        assert {event["topic"] for event in cell["seen"]["events"]} <= {"Aggregate", "Broadcast"}


@pytest.mark.parametrize("attack", [*POISONINGS, *EVASIONS])
def test_encryption_changes_no_poisoning_or_evasion_result_beyond_rounding(document: Document, attack: str) -> None:
    plain, sealed = (
        {c["seed"]: c["metrics"] for c in document["cells"] if (c["attack"], c["stack"]) == (attack, stack)}
        for stack in ("none", "ckks")
    )
    for seed, metrics in plain.items():
        for name, metric in metrics.items():
            assert sealed[seed][name]["value"] == pytest.approx(metric["value"], abs=1e-3), (seed, name)


def test_client_side_clipping_does_not_bind_a_poisoning_client_and_server_enforced_clipping_does(
    document: Document,
) -> None:
    # Honest clients clip themselves and the attackers don't: their weight grows; the server clips everyone.
    for attack in ("sign-flip", "alie"):
        free, client, server = (headline(document, attack, s)["value"] for s in ("none", "clip", "server-clip"))
        assert client > free - 0.05
        assert server < client - 0.1


def test_foolsgold_stops_sybils_and_robust_rules_do_not(document: Document) -> None:
    assert headline(document, "sybil", "foolsgold")["value"] < 0.1
    assert headline(document, "sybil", "multi-krum")["value"] > 0.5


def test_every_defense_shows_its_price(document: Document) -> None:
    for row in document["utilities"]:
        assert row["upload_bytes_per_client_round"] > 0
        assert row["seconds_per_round"] > 0
        assert "accuracy_drop" in row
    sealed = next(row for row in document["utilities"] if row["stack"] == "ckks")
    assert sealed["ratio_upload"] > 5
    claims = {claim["defense"]: claim for stack in document["stacks"] for claim in stack["claims"]}
    assert claims["dp-client"]["epsilon"] > 0
    assert claims["dp-client"]["adjacency"]
    assert claims["dp-local"]["epsilon"] > 0


class Links(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag != "a":
            self.loads.extend(v or "" for k, v in attrs if k in ("src", "href", "data", "action"))


def test_the_report_loads_nothing_from_a_network(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert len(page.encode()) < 2_000_000
    links = Links()
    links.feed(page)
    assert links.scripts == 0
    assert all(load.startswith(("data:", "#")) for load in links.loads)
    assert "default-src 'none'" in page


def test_running_it_again_computes_nothing(folder: Path) -> None:
    before = json.loads((folder / "audit.json").read_text())
    command = [sys.executable, "-m", "fedsec", "audit", str(ROOT / "examples/quickstart.yaml"), "--output", str(folder)]
    run = subprocess.run([*command, "--progress", "plain"], capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert "0 computed" in run.stderr
    after = json.loads((folder / "audit.json").read_text())
    for changing in ("created", "environment"):
        before.pop(changing)
        after.pop(changing)
    assert before == after
