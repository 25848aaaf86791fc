"""The documents say what the code says, and every link in them leads somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fedsec.config.entries import RESERVED
from fedsec.config.load import precheck
from fedsec.config.yaml_lines import read_yaml
from fedsec.registry import GROUPS, module_of, names

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {"bench-envs", "build", "dist", "node_modules", "out", "shared"}
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\)")


def pages() -> list[Path]:
    found = (path for path in ROOT.rglob("*.md") if not any(p.startswith(".") for p in path.relative_to(ROOT).parts))
    return sorted(path for path in found if not SKIPPED.intersection(path.relative_to(ROOT).parts))


def links(page: Path) -> Iterator[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(re.sub(r"`[^`\n]*`", "code", text)):
        if not re.match(r"[a-z][a-z0-9+.-]*:", match.group(1)):
            yield match.group(1)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 1
        name = slug
        while name in found:
            name, number = f"{slug}-{number}", number + 1
        found.add(name)
    return found


def yaml_blocks() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plugins_page_is_up_to_date(generate: ModuleType) -> None:
    written = generate.PLUGINS.read_text(encoding="utf-8")
    assert written == generate.plugins_page(), "run: python docs/generate.py"


def test_tables_of_the_configuration_are_up_to_date(generate: ModuleType) -> None:
    written = generate.CONFIGURATION.read_text(encoding="utf-8")
    assert written == generate.configuration_page(written), "run: python docs/generate.py"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("group", ["attacks", "defenses"])
def test_readme_names_every_plugin(group: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    own = [name for name in names(group) if module_of(group, name).startswith("fedsec.")]
    assert [name for name in own if f"`{name}`" not in text] == []


@pytest.mark.parametrize("text", yaml_blocks(), ids=range(len(yaml_blocks())))
def test_examples_of_the_configuration_are_right(text: str, tmp_path: Path) -> None:
    example = read_yaml(text.encode())
    assert not example.problems
    base = {
        "version": 1,
        "federation": {
            "dataset": {"name": "digits", "holdout": 100, "auxiliary": 100},
            "model": "mlp",
            "clients": 20,
            "rounds": 2,
        },
        "attacks": ["dlg"],
        "defenses": ["none", "dp-client"],
    }
    file = tmp_path / "audit.yaml"
    file.write_text(json.dumps(base | example.value))
    precheck(file)


def test_contributing_names_what_a_parameter_may_not_be_called() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"`{word}`" in text for word in RESERVED)


def test_every_kind_of_plugin_can_be_added_by_the_text() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"fedsec.{group}" in text for group in GROUPS)


def test_citation_has_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {project['version']}\n" in citation
    assert f"license: {project['license']}\n" in citation


def test_the_table_of_stacks_is_up_to_date(generate: ModuleType) -> None:
    written = generate.STACKS.read_text(encoding="utf-8")
    assert written == generate.stacks_page(), "run: python docs/generate.py"
