"""What every plugin owes, checked over whatever is installed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedsec import registry
from fedsec.cli.explain import example, explanation
from fedsec.config.entries import RESERVED
from fedsec.config.json_schema import audit_schema
from fedsec.config.yaml_lines import read_yaml
from fedsec.declaration import Declaration, read_class, read_source
from fedsec.parameters import check, describe, json_schema, rebuild, schema, validate
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

PLUGIN_GROUPS = ("attacks", "defenses", "datasets", "partitions", "models")
EVERY = [(group, name) for group in registry.GROUPS for name in registry.names(group)]
PLUGINS = [(group, name) for group, name in EVERY if group in PLUGIN_GROUPS]
ATTACKS = registry.names("attacks")
DEFENSES = registry.names("defenses")
TAXONOMY_IDS: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "taxonomy_ids.json").read_text())

every = pytest.mark.parametrize(("group", "name"), EVERY, ids=lambda value: str(value))
plugins = pytest.mark.parametrize(("group", "name"), PLUGINS, ids=lambda value: str(value))


def default(group: str, name: str) -> Any:
    """The plugin with its defaults; what is required is filled with the smallest thing that its type allows."""
    cls = registry.get(group, name)
    required = {p.name: {"integer": 1, "number": 1.0, "text": "x"}[p.type] for p in schema(cls) if p.required}
    built, problems = validate(cls, required, "")
    assert not problems
    return built


@every
def test_can_be_imported_and_listed(group: str, name: str) -> None:
    registry.get(group, name)
    row = next(row for row in registry.rows(group) if row.name == name)
    assert not row.error
    assert row.summary


@plugins
def test_metadata(group: str, name: str) -> None:
    cls = registry.get(group, name)
    assert cls.name == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert_sentence(cls.summary)
    assert isinstance(cls.revision, int)
    assert cls.revision >= 1
    if group in {"attacks", "defenses", "datasets"}:
        assert cls.family
    if group in {"attacks", "defenses"}:
        assert cls.cost


@pytest.mark.parametrize("name", registry.names("judges"))
def test_judge(name: str) -> None:
    judge = registry.get("judges", name)
    assert judge.name == name
    assert judge.summary
    base = registry.get("judges", name).__mro__[-2]
    assert (judge.measure is not base.measure) != (judge.compare is not base.compare)


@plugins
def test_is_a_frozen_dataclass_with_described_parameters(group: str, name: str) -> None:
    cls = registry.get(group, name)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in dataclasses.fields(cls))
    for parameter in schema(cls):
        assert parameter.description, parameter.name
        assert parameter.name not in RESERVED
        assert not parameter.description.endswith("."), parameter.name


@plugins
def test_defaults_are_valid_and_specs_rebuild(group: str, name: str) -> None:
    built = default(group, name)
    spec = json.loads(json.dumps(built.spec(), allow_nan=False))
    assert spec["name"] == name
    assert rebuild(group, spec) == built
    # Defaults pass the checks that a user's values pass.
    assert check(registry.declaration(group, name), {k: v for k, v in spec.items() if k != "name"}, "") == []


@plugins
def test_source_says_what_the_class_says(group: str, name: str) -> None:
    cls = registry.get(group, name)
    if not cls.__module__.startswith("fedsec."):
        pytest.skip("a third party's plugin is imported to be checked")
    assert_same(read_source(cls.__module__, cls.__qualname__), read_class(cls))


def assert_same(source: Declaration, imported: Declaration) -> None:
    assert describe(source.fields) == describe(imported.fields)
    assert json_schema(source.fields) == json_schema(imported.fields)
    for name in ("name", "summary", "family", "threat", "judge"):
        assert getattr(source, name) == getattr(imported, name), name
    assert set(source.bases) == {base for base in imported.bases if base.startswith("fedsec.")}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str) -> None:
    cls = registry.get("attacks", name)
    threat = cls.threat
    assert isinstance(threat, ThreatModel)
    assert threat.story
    assert threat.position
    assert threat.capabilities
    assert all(isinstance(item, Knowledge) for item in threat.knowledge)
    assert all(isinstance(item, Capability) for item in threat.capabilities)
    assert isinstance(threat.stage, Stage)
    assert cls.judge in registry.names("judges")
    assert isinstance(cls.paper, Paper)
    assert all((cls.paper.title, cls.paper.authors, cls.paper.venue))
    assert {entry.framework for entry in cls.taxonomy} == set(TAXONOMY_IDS)
    assert_taxonomy(cls.taxonomy)


@pytest.mark.parametrize("name", DEFENSES)
def test_defense(name: str) -> None:
    cls = registry.get("defenses", name)
    assert all((cls.guarantee.protects, cls.guarantee.against, cls.guarantee.assuming))
    assert cls.accepts
    assert_taxonomy(cls.taxonomy)


def assert_taxonomy(entries: tuple[Taxonomy, ...]) -> None:
    for entry in entries:
        assert entry.strength in {"exact", "partial", "none"}
        assert bool(entry.id) == (entry.strength != "none")
        if entry.id:
            assert TAXONOMY_IDS[entry.framework][entry.id] == entry.name


def assert_sentence(text: str) -> None:
    assert text[:1].isupper() or text[:1].isdigit()
    assert not text.endswith(".")
    assert ". " not in text
    assert "\n" not in text
    assert len(text) <= 140


@every
def test_explain(group: str, name: str) -> None:
    text = explanation(name, group)
    assert name in text
    assert "None" not in text.split("\n")[1]


@plugins
def test_example_is_in_the_editor_schema(group: str, name: str, editor: Any) -> None:
    cls = registry.get(group, name)
    if any(parameter.required for parameter in schema(cls)):
        pytest.skip("the example has a value to fill in")
    federation = {"dataset": "digits", "model": "mlp", "clients": 2, "rounds": 1}
    text = read_yaml(example(group, name, schema(cls)).encode()).value
    document = {"version": 1, "federation": federation | text.pop("federation", {}), "attacks": [], **text}
    assert [error.message for error in editor.iter_errors(document)] == []


@pytest.fixture(scope="module")
def editor() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(audit_schema())
