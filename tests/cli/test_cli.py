from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedsec import registry
from fedsec.audit.verdict import ExitCode
from fedsec.cli.run import run
from fedsec.cli.starter import PRESETS, STARTER
from fedsec.config import load_config
from fedsec.errors import DataError
from fedsec.statistics.severity import BANDS


@pytest.fixture
def fedsec(capsys):
    """Runs a command: exit code, standard output, standard error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return command


@pytest.fixture
def commands(monkeypatch):
    """Records what the audit commands are given, in place of running them."""
    from fedsec.audit import commands as real

    calls = []
    for name in ("audit", "plan", "report"):
        monkeypatch.setattr(real, name, lambda *a, _name=name, **k: calls.append((_name, a, k)) or 3)
    return calls


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    path = tmp_path / "audit.yaml"
    path.write_text(STARTER)
    return path


def test_without_arguments_help_is_printed(fedsec) -> None:
    code, out, _ = fedsec()
    assert code == 0
    assert "Usage" in out
    assert fedsec("--help")[1] == out
    for command in ("list", "explain", "init", "schema", "plan", "audit", "report", "data"):
        assert command in out


def test_version(fedsec) -> None:
    import fedsec as package

    assert fedsec("--version") == (0, f"fedsec {package.__version__}\n", "")


@pytest.mark.parametrize("line", ["lst", "audit", "audit x --no-such", "list atacks", "audit x -j -1"])
def test_usage_errors_exit_with_2(fedsec, line: str) -> None:
    code, out, err = fedsec(*line.split())
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert err


def test_list_names_every_plugin(fedsec) -> None:
    code, out, _ = fedsec("list")
    assert code == 0
    for group in registry.GROUPS:
        assert f"{group} ({len(registry.names(group))})" in out
        assert all(name in out for name in registry.names(group))
    names = [line.split()[0] for line in fedsec("list", "defenses")[1].splitlines()]
    assert names == list(registry.names("defenses"))


def test_list_as_json(fedsec) -> None:
    found = json.loads(fedsec("list", "attacks", "--json")[1])
    assert [row["name"] for row in found["attacks"]] == list(registry.names("attacks"))
    assert set(found["attacks"][0]) == {"name", "summary", "family", "distribution", "error"}


def test_broken_plugin_is_a_warning_row(fedsec, monkeypatch) -> None:
    row = registry.Row("bad", "", "", "some-package", "ImportError: no")
    monkeypatch.setattr("fedsec.cli.listing.rows", lambda group: [row])
    code, out, _ = fedsec("list", "attacks")
    assert code == 0
    assert out == "bad  ! cannot be used: ImportError: no [some-package]\n"


def test_explain_topics(fedsec) -> None:
    text = fedsec("explain", "exit-codes")[1]
    assert [int(n) for n in re.findall(r"^ +(\d+)  ", text, re.MULTILINE)] == [int(code) for code in ExitCode]
    text = fedsec("explain", "severity")[1]
    assert all(re.search(rf"{band} +from {lowest:g}", text) for band, lowest in BANDS)


def test_explain_attack_defense_and_dataset(fedsec) -> None:
    text = fedsec("explain", "dlg")[1]
    assert all(
        word in text for word in ("Threat model", "Parameters", "Taxonomy", "NISTAML.032", "Example", "{name: dlg")
    )
    assert "Guarantee" in fedsec("explain", "ckks")[1]
    assert "licence" in fedsec("explain", "digits")[1]


def test_explain_suggests_the_nearest_name(fedsec) -> None:
    code, out, err = fedsec("explain", "kurm")
    assert (code, out, err) == (2, "", "error: there is nothing called 'kurm'. Did you mean 'krum'?\n")


@pytest.mark.parametrize("preset", ["quick", "poisoning", "production"])
def test_every_preset_is_a_configuration(fedsec, tmp_path: Path, preset: str) -> None:
    path = tmp_path / "new.yaml"
    assert fedsec("init", str(path), "--preset", preset)[0] == 0
    config = load_config(path)
    assert f"fedsec audit {path}" in path.read_text()
    assert [entry for entry in config.stacks if not entry.defenses]
    assert len(config.attacks) >= 3


def test_the_production_preset_has_one_compromised_client_in_a_thousand() -> None:
    raw = yaml.safe_load(PRESETS["production"])
    assert raw["federation"]["clients"] * raw["attacks"][0]["fraction"] == 1.0
    assert {attack["fraction"] for attack in raw["attacks"]} == {0.001}
    assert "Back to the Drawing Board" in PRESETS["production"]


def test_an_unknown_preset_is_a_usage_error(fedsec, tmp_path: Path) -> None:
    code, _, err = fedsec("init", str(tmp_path / "new.yaml"), "--preset", "large")
    assert code == 2
    assert "production" in err
    assert not (tmp_path / "new.yaml").exists()


def test_init_writes_a_configuration_that_works_and_overwrites_nothing(fedsec, tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    code, out, _ = fedsec("init", str(path))
    assert code == 0
    assert f"fedsec audit {path}" in out
    assert 25 <= len(path.read_text().splitlines()) <= 45
    assert len(load_config(path).attacks) >= 3
    path.write_text("mine")
    code, _, err = fedsec("init", str(path))
    assert code == 2
    assert "is not overwritten" in err
    assert path.read_text() == "mine"
    code, _, err = fedsec("init", str(tmp_path / "no" / "folder.yaml"))
    assert code == 2
    assert "cannot be written" in err


def test_schema_is_json(fedsec) -> None:
    code, out, _ = fedsec("schema")
    assert code == 0
    assert json.loads(out)["$defs"]["attack"]


@pytest.mark.parametrize("command", ["audit", "plan"])
def test_configuration_errors_are_lines_with_a_count(fedsec, commands, starter: Path, command: str) -> None:
    starter.write_text(STARTER.replace("rounds: 20", "rounds: 0").replace("- dlg", "- dgl"))
    code, out, err = fedsec(command, str(starter), "--set", "federation.clients=0")
    assert (code, out, commands) == (2, "", [])
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines[:-1])
    assert lines[-1] == "3 errors"
    assert f"{starter}:" in lines[0]


def test_audit_passes_everything_on_and_exits_with_its_code(fedsec, commands, starter: Path) -> None:
    code, _, _ = fedsec(
        "audit", str(starter), "-o", "out", "--fresh", "--jobs", "2", "--only", "attack=dlg", "--only", "stack=none",
        "--set", "federation.rounds=3", "--device", "cpu", "--progress", "json", "--check-defenses",
    )  # fmt: skip
    assert code == 3
    assert commands == [
        (
            "audit",
            (starter,),
            {
                "output": Path("out"),
                "fresh": True,
                "jobs": 2,
                "only": ["attack=dlg", "stack=none"],
                "overrides": ["federation.rounds=3"],
                "device": "cpu",
                "progress": "json",
                "check_defenses": True,
            },
        )
    ]


def test_plan_and_report_pass_everything_on(fedsec, commands, starter: Path) -> None:
    assert fedsec("plan", str(starter), "--json")[0] == 3
    assert fedsec("report", "a.json", "--format", "csv", "-o", "b.csv")[0] == 3
    assert commands == [
        ("plan", (starter,), {"overrides": [], "json": True}),
        ("report", (Path("a.json"),), {"format": "csv", "output": Path("b.csv")}),
    ]


def test_a_wrong_device_is_said_at_once(fedsec, commands, starter: Path) -> None:
    code, _, err = fedsec("audit", str(starter), "--device", "gpu")
    assert code == 2
    assert "device" in err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (DataError("mnist is missing\nfetch it"), 2, "error: mnist is missing"),
    ],
)
def test_interruption_and_errors_of_a_run(fedsec, monkeypatch, starter: Path, error, code: int, words: str) -> None:
    from fedsec.audit import commands

    def fail(*_args, **_keywords):
        raise error

    monkeypatch.setattr(commands, "audit", fail)
    found, out, err = fedsec("audit", str(starter))
    assert (found, out) == (code, "")
    assert words in err


def test_a_defect_is_not_hidden(monkeypatch, starter: Path) -> None:
    from fedsec.audit import commands

    def fail(*_args, **_keywords):
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "audit", fail)
    with pytest.raises(ZeroDivisionError):
        run(["audit", str(starter)])


def test_data_commands(fedsec, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDSEC_DATA", str(tmp_path))
    rows = {row["name"]: row["status"] for row in json.loads(fedsec("data", "list", "--json")[1])}
    assert set(rows) == set(registry.names("datasets"))
    assert (rows["digits"], rows["mnist"]) == ("embedded", "missing")
    assert "embedded" in fedsec("data", "list")[1]
    code, _, err = fedsec("data", "path", "mnist")
    assert code == 2
    assert "fedsec data fetch mnist" in err
    monkeypatch.setattr("fedsec.data.cache.fetch", lambda name: tmp_path / name)
    assert fedsec("data", "fetch", "mnist", "adult")[1] == f"{tmp_path / 'mnist'}\n{tmp_path / 'adult'}\n"


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("arguments", [[], ["list"], ["data", "list"], ["schema"], ["audit", "missing.yaml"]])
def test_what_must_be_fast_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom fedsec.cli.run import run\nrun(sys.argv[1:])\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy"
    )
    assert python("-c", code, *arguments).returncode == 0


def test_module_runs_and_no_color_is_honoured() -> None:
    done = python("-m", "fedsec", "--help", NO_COLOR="1", FORCE_COLOR="")
    assert done.returncode == 0
    assert "\x1b[" not in done.stdout
    assert python("-m", "fedsec", "explain", "nothing-at-all").returncode == 2
