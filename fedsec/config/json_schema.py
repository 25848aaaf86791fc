"""JSON Schema of ``audit.yaml`` for editors, with the parameters of every installed plugin."""

from __future__ import annotations

from typing import Any

from fedsec import registry
from fedsec.config.sections import Root, Splits
from fedsec.errors import PluginError
from fedsec.parameters import json_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_LABEL = {"type": "string", "minLength": 1, "maxLength": 80, "description": "name in the report; unique"}
_MEMBER = r"server|key-holder|helper:\d+|eavesdropper|client:\d+"
_POSITION = {
    "type": "string",
    "pattern": rf"^({_MEMBER}|outsider)(\s*\+\s*({_MEMBER}))*$",
    "description": "coalition whose view a passive attack gets",
}


def audit_schema() -> dict[str, Any]:
    """The schema, JSON-able."""
    produced = Root.model_json_schema()
    definitions = produced["$defs"]
    for group in ("datasets", "partitions", "models", "attacks", "defenses"):
        definitions[group[:-1]] = _plugin(group)
    federation = definitions["Federation"]["properties"]
    for key in ("dataset", "partition", "model"):
        federation[key] = _keep(federation[key]) | {"$ref": f"#/$defs/{key}"}
    federation["algorithm"] = _keep(federation["algorithm"]) | {
        "anyOf": [definitions["Algorithm"]["properties"]["name"], {"$ref": "#/$defs/Algorithm"}]
    }
    properties = produced["properties"]
    properties["attacks"]["items"] = {"$ref": "#/$defs/attack"}
    properties["defenses"]["items"] = _stack()
    return {"$schema": DIALECT, "title": "fedsec audit configuration", **_without_titles(produced)}


def _keep(property_schema: dict[str, Any]) -> dict[str, Any]:
    return {key: property_schema[key] for key in ("description", "default") if key in property_schema}


def _plugin(group: str) -> dict[str, Any]:
    common: dict[str, Any] = {}
    own: list[dict[str, Any]] = []
    if group == "datasets":
        common = dict(Splits.model_json_schema()["properties"])
        own = [_user_own("load", common)]
    elif group == "models":
        own = [_user_own("build", {})]
    elif group == "attacks":
        common = {"label": _LABEL, "position": _POSITION}
    elif group == "defenses":
        common = {"label": _LABEL}
    usable = [(name, made) for name in registry.names(group) if (made := _named(group, name, common)) is not None]
    names = [name for name, _ in usable]
    return {"anyOf": [{"enum": names}, {"oneOf": [made for _, made in usable]}, *own]}


def _named(group: str, name: str, common: dict[str, Any]) -> dict[str, Any] | None:
    try:
        declared = registry.declaration(group, name)
    except PluginError:
        return None
    parameters = json_schema(declared.fields)
    return {
        "type": "object",
        "description": declared.summary,
        "properties": {"name": {"const": name}, **common, **parameters["properties"]},
        "required": ["name", *parameters.get("required", [])],
        "additionalProperties": False,
    }


def _user_own(key: str, common: dict[str, Any]) -> dict[str, Any]:
    target = {"type": "string", "pattern": r"^[^\s:]+:[^\s:]+$", "description": "module:function beside this file"}
    return {"type": "object", "properties": {key: target, **common}, "required": [key]}


def _stack() -> dict[str, Any]:
    one = {"$ref": "#/$defs/defense"}
    none: dict[str, Any] = {"const": "none", "description": "no defense"}
    labelled = {
        "type": "object",
        "properties": {"label": _LABEL, "stack": {"type": "array", "items": one}},
        "required": ["stack"],
        "additionalProperties": False,
    }
    return {"anyOf": [none, one, {"type": "array", "items": one}, labelled]}


def _without_titles(value: Any) -> Any:
    """Pydantic titles every property with its own name, which editors show twice."""
    if isinstance(value, dict):
        return {
            key: {name: _without_titles(item) for name, item in inner.items()}
            if key in {"properties", "$defs"} and isinstance(inner, dict)
            else _without_titles(inner)
            for key, inner in value.items()
            if not (key == "title" and isinstance(inner, str))
        }
    return [_without_titles(item) for item in value] if isinstance(value, list) else value
