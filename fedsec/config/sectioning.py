"""The sections that are not plugins, checked by their models, with errors in the user's words."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Union

from pydantic import BaseModel, ValidationError

from fedsec.config.draft import MISSING, Draft
from fedsec.config.paths import Path, written
from fedsec.config.sections import Root
from fedsec.parameters import choices_of, expected_text, shown
from fedsec.registry import closest


def check_sections(draft: Draft) -> None:
    """Report everything in the draft that the models of the sections refuse."""
    if draft.raw is None:
        draft.report("", "the configuration is empty", hint="`fedsec init` writes one to start from")
        return
    if not isinstance(draft.raw, dict):
        draft.report("", "expected a mapping with version, federation and attacks", found=shown(draft.raw))
        return
    algorithm = draft.at("federation.algorithm")
    if isinstance(algorithm, str):
        draft.raw["federation"]["algorithm"] = {"name": algorithm}
    try:
        Root.model_validate(draft.raw)
    except ValidationError as error:
        found = [
            (_raw_path(draft.raw, item["loc"], item["type"]), item["type"]) for item in error.errors(include_url=False)
        ]
        # Of the members of a union, the one that got furthest is what was meant.
        for path, kind in sorted(found, key=lambda one: -len(one[0])):
            if draft.sound(written(path)):
                _report(draft, kind, path)


def field_of(path: Path) -> tuple[Any, type[BaseModel]]:
    """The annotation of what a path stands for, and the model around it."""
    model: type[BaseModel] = Root
    annotation: Any = Root
    for key in path:
        if isinstance(key, str) and key in model.model_fields:
            info = model.model_fields[key]
            annotation = Annotated[info.annotation, info]
            inner = info.annotation
        elif isinstance(key, int):
            annotation = inner = _item_of(annotation)
        else:
            return Any, model
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return annotation, model


def _item_of(annotation: Any) -> Any:
    """What a list holds; of a union, its list."""
    if typing.get_origin(annotation) is Annotated:
        return _item_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation)[0]
    members = typing.get_args(annotation) if typing.get_origin(annotation) in (Union, types.UnionType) else ()
    return next((item for item in map(_item_of, members) if item is not Any), Any)


def _raw_path(raw: Any, loc: tuple[int | str, ...], kind: str) -> Path:
    """The part of pydantic's location that exists in the raw value: it also names members of unions."""
    path: list[str | int] = []
    value = raw
    for number, key in enumerate(loc):
        is_last = number == len(loc) - 1
        if isinstance(value, dict) and isinstance(key, str) and (key in value or (is_last and kind == "missing")):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            continue
        path.append(key)
    return tuple(path)


def _report(draft: Draft, kind: str, path: Path) -> None:
    text = written(path)
    annotation, model = field_of(path)
    if kind == "extra_forbidden":
        hint = closest(path[-1], model.model_fields) or f"Known keys: {', '.join(model.model_fields)}"
        draft.report(text, "unknown key", hint=hint)
        return
    value = draft.at(text)
    if kind == "missing":
        draft.report(text, "this key is required")
        return
    hint = closest(value, choices_of(annotation)) if isinstance(value, str) else ""
    draft.report(text, expected_text(annotation), found="nothing" if value is MISSING else shown(value), hint=hint)
