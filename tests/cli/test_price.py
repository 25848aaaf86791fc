"""``fedsec price``: a table for people, and the same for machines."""

from __future__ import annotations

import json

import pytest

from fedsec.cli.run import run

CONFIGURATION = """\
version: 1
name: small
federation: {dataset: {name: digits, train: 200}, model: {name: mlp, hidden: [16]}, clients: 6, rounds: 3}
attacks: [idlg]
defenses: [none, ckks, sign, [ckks, krum]]
seeds: [0]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(CONFIGURATION)
    return path


def test_every_stack_has_its_price_and_a_refused_one_its_reason(file, capsys) -> None:
    assert run(["price", str(file), "--clients", "50", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["clients"] == 50
    none, ckks, sign, refused = found["stacks"]
    assert none["upload"] == none["plain"]
    assert ckks["upload"] > 8 * none["upload"]
    assert sign["upload"] < none["upload"] / 20
    assert "sealed" in refused["refused"][0]
    assert set(ckks["seconds"]) == {"seal", "serialise", "add", "open"}


def test_the_table_shows_the_formulas(file, capsys) -> None:
    assert run(["price", str(file)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("small: a round of 6 clients")
    assert "x fp32" in shown
    assert " n" in shown.splitlines()[3]
    assert "ckks+krum: refused" in shown


def test_a_wrong_file_is_an_error(tmp_path, capsys) -> None:
    (tmp_path / "audit.yaml").write_text("version: 1\n")
    assert run(["price", str(tmp_path / "audit.yaml")]) == 2
    assert "federation" in capsys.readouterr().err
