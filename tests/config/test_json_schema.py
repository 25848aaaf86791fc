from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml

from fedsec.cli.starter import PRESETS, STARTER
from fedsec.config import config_from
from fedsec.config.json_schema import audit_schema

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").rglob("*.yaml"))


@pytest.fixture(scope="module")
def editor():
    made = audit_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_and_their_resolved_forms_are_valid(editor, preset: str) -> None:
    raw = yaml.safe_load(PRESETS[preset])
    assert list(editor.iter_errors(raw)) == []
    assert list(editor.iter_errors(config_from(raw).resolved())) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(editor, path: Path) -> None:
    for raw in yaml.safe_load_all(path.read_text()):
        assert list(editor.iter_errors(raw)) == []
        config_from(raw, folder=path.parent)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("federation", "clients"), 0),
        (("federation", "rouns"), 3),
        (("federation", "dataset", "trian"), 3),
        (("federation", "model"), "mpl"),
        (("attacks", 0), {"name": "dlg", "targts": 3}),
        (("attacks", 0), {"name": "dlg", "targets": "many"}),
        (("defenses", 1), {"name": "clip", "c": -1}),
        (("defenses", 1), ["clpi"]),
        (("gates", 0, "below"), "hihg"),
        (("seeds",), []),
    ],
)
def test_mistakes_are_found_by_an_editor(editor, where, value) -> None:
    raw = copy.deepcopy(yaml.safe_load(STARTER))
    holder = raw
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    assert list(editor.iter_errors(raw))
