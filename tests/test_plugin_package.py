"""A plugin package as somebody else makes it: installed by pip, found, explained, run and reported."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "docs" / "example-plugin"
SCRIPT = "<script>alert(1)</script>"

# Two more plugins in one package: one cannot be imported, one has a name that a page must not run.
OTHER_PROJECT = f"""\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "fedsec-other"
version = "1.0"
[project.entry-points."fedsec.attacks"]
broken = "fedsec_broken:Broken"
"{SCRIPT}" = "fedsec_hostile:Hostile"
[tool.setuptools]
py-modules = ["fedsec_broken", "fedsec_hostile"]
"""
BROKEN = 'raise RuntimeError("this plugin needs a newer world")\n'

AUDIT = f"""\
version: 1
name: with plugins
federation:
  dataset: {{name: digits, train: 60, holdout: 40, test: 60}}
  model: softmax
  clients: 4
  rounds: 2
  local: {{batch_size: 8, learning_rate: 0.3}}
attacks:
  - {{name: gap, weight: 0.1}}
  - "{SCRIPT}"
seeds: [0]
"""


@dataclass(frozen=True)
class Scratch:
    """An environment of its own that sees this one's packages."""

    python: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), "-m", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )

    def fedsec(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("fedsec", *arguments)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Scratch:
    """A scratch environment with the example and the two other plugins installed into it by pip."""
    folder = tmp_path_factory.mktemp("scratch")
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    seen = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()])
    text = "".join(f"import site; site.addsitedir({path!r})\n" for path in seen)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "env" / "lib" / version / "site-packages" / "outer.pth").write_text(text)

    shutil.copytree(EXAMPLE, folder / "example")
    other = folder / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text(OTHER_PROJECT)
    (other / "fedsec_broken.py").write_text(BROKEN)
    hostile = (EXAMPLE / "fedsec_gap.py").read_text().replace("Gap", "Hostile").replace('"gap"', f'"{SCRIPT}"')
    (other / "fedsec_hostile.py").write_text(hostile.replace("Calls those", f"{SCRIPT} calls those"))

    made = Scratch(python, folder)
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    done = made.run("pip", "install", *offline, str(folder / "example"), str(other))
    assert done.returncode == 0, done.stderr
    assert "env" in made.run("pip", "show", "-f", "fedsec-gap").stdout
    return made


@pytest.fixture(scope="module")
def audited(scratch: Scratch) -> Path:
    """The folder of an audit that uses the plugins."""
    file = scratch.folder / "audit.yaml"
    file.write_text(AUDIT)
    done = scratch.fedsec("audit", str(file), "--output", str(scratch.folder / "out"), "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return scratch.folder / "out"


def test_the_example_is_short() -> None:
    assert len((EXAMPLE / "fedsec_gap.py").read_text().splitlines()) <= 40


def test_plugins_are_listed_and_a_broken_one_is_a_warning(scratch: Scratch) -> None:
    done = scratch.fedsec("list", "attacks", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["attacks"]}
    assert rows["gap"]["distribution"] == "fedsec-gap"
    assert (rows["gap"]["family"], rows["gap"]["error"]) == ("membership", "")
    assert "RuntimeError: this plugin needs a newer world" in rows["broken"]["error"]
    assert rows[SCRIPT]["summary"].startswith(f"{SCRIPT} calls those")
    assert not rows["dlg"]["error"]

    done = scratch.fedsec("list")
    assert done.returncode == 0, done.stderr
    lines = {text.split()[0]: text for text in done.stdout.splitlines() if text.strip()}
    assert lines["gap"].endswith("the published model classifies rightly [fedsec-gap]")
    assert "! cannot be used: " in lines["broken"]
    assert "a newer world [fedsec-other]" in lines["broken"]
    assert SCRIPT in lines
    assert "Traceback" not in done.stdout + done.stderr


def test_it_is_explained(scratch: Scratch) -> None:
    done = scratch.fedsec("explain", "gap")
    assert done.returncode == 0, done.stderr
    for words in ("Threat model", "outsider", "weight: number", "Weight of the true class's probability", "Yeom"):
        assert words in done.stdout
    assert "  - {name: gap, weight: 0.0}" in done.stdout


def test_it_runs_and_stands_in_the_result(audited: Path) -> None:
    found = json.loads((audited / "audit.json").read_text())
    assert found["complete"]
    findings = {finding["attack"]: finding for finding in found["findings"]}
    assert set(findings) == {"gap", SCRIPT}
    assert findings["gap"]["status"] == "measured"
    assert "auc" in findings["gap"]["metrics"]
    assert {attack["name"]: attack["parameters"] for attack in found["attacks"]}["gap"] == {"weight": 0.1}


def test_its_name_is_text_in_every_report(scratch: Scratch, audited: Path) -> None:
    page = (audited / "report.html").read_text()
    assert ">gap<" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    done = scratch.fedsec("report", str(audited / "audit.json"), "--format", "markdown")
    assert done.returncode == 0, done.stderr
    assert "alert(1)" in done.stdout
    assert not re.search(r"(?<!\\)<script", done.stdout)


def test_a_broken_plugin_is_an_error_only_if_it_is_used(scratch: Scratch) -> None:
    file = scratch.folder / "broken.yaml"
    file.write_text(AUDIT.replace("- {name: gap, weight: 0.1}", "- broken"))
    for command, where in ((("audit", str(file)), f"{file}:10 attacks[0]: "), (("explain", "broken"), "")):
        done = scratch.fedsec(*command)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {where}")
        assert "'broken' (fedsec_broken:Broken) cannot be imported: RuntimeError: this plugin needs" in done.stderr
        assert "Traceback" not in done.stderr


def test_parameters_of_a_plugin_are_checked_like_any_other(scratch: Scratch) -> None:
    file = scratch.folder / "wrong.yaml"
    file.write_text(AUDIT.replace("weight: 0.1", "wieght: 0.1"))
    done = scratch.fedsec("plan", str(file))
    assert done.returncode == 2
    assert "attacks[0].wieght" in done.stderr
    assert "Did you mean 'weight'?" in done.stderr
