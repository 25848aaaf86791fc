"""The signature is the schema: parameters of plugins, checked all at once against the fields that declare them."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, Union

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from fedsec import registry
from fedsec.declaration import REQUIRED, Builder, Declaration, DeclaredField, NestedPlugin, class_fields
from fedsec.errors import ConfigurationError, PluginError, Problem
from fedsec.registry import closest

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_TYPE_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
_BOUNDS = (("ge", ">= {}"), ("gt", "> {}"), ("le", "<= {}"), ("lt", "< {}"), ("multiple_of", "a multiple of {}"))
_LENGTHS = (("min_length", "at least {} long"), ("max_length", "at most {} long"), ("pattern", "like {}"))


@dataclass(frozen=True)
class Parameter:
    """One parameter of a plugin, in words.

    Attributes:
        name: as typed in a configuration.
        type: as in ``integer`` or ``one of client | server``.
        default: JSON-able; `fedsec.declaration.REQUIRED` if it has none.
        description: with the unit.
        constraints: as in ``>= 1, <= 64``; empty if there are none.
    """

    name: str
    type: str
    default: Any
    description: str
    constraints: str

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED

    @property
    def expected(self) -> str:
        """Type and constraints as an error says them."""
        return f"expected {self.kind}"

    @property
    def kind(self) -> str:
        """Type and constraints."""
        return _bounded(self.type, self.constraints)


def schema(cls: type) -> list[Parameter]:
    """The parameters of an imported plugin class, in the order of its fields."""
    return describe(class_fields(cls))


def describe(fields: Iterable[DeclaredField]) -> list[Parameter]:
    """Declared fields in words."""
    return [
        Parameter(
            name=field.name,
            type=_type_text(field.annotation),
            default=field.default,
            description=_description(field.annotation),
            constraints=_constraints(field.annotation),
        )
        for field in fields
    ]


def json_schema(fields: Iterable[DeclaredField]) -> dict[str, Any]:
    """JSON Schema of the parameters: ``properties``, and ``required`` if any is."""
    declared = tuple(fields)
    produced = _adapter(declared).json_schema()
    definitions = produced.get("$defs", {})
    inlined = _inline({key: produced[key] for key in ("properties", "required") if key in produced}, definitions)
    for field in declared:
        inlined["properties"][field.name].pop("title", None)
        if field.default is not REQUIRED:
            inlined["properties"][field.name]["default"] = _lists(field.default)
    return {"properties": {}, **inlined}


def validate(cls: type, raw: Mapping[str, Any], where: str) -> tuple[Any, list[Problem]]:
    """Build a plugin from raw parameters.

    Args:
        cls: the imported plugin class.
        raw: parameters as YAML or JSON gives them; lists stand for tuples, nested plugins for ``{name, **parameters}``.
        where: path of the parameters in the configuration, as in ``attacks[1]``; empty for none.

    Returns:
        The object and no problems, or ``None`` and everything that is wrong.
    """
    values, problems = _check(class_fields(cls), raw, where, _build_nested)
    if problems:
        return None, problems
    try:
        return cls(**values), []
    except ConfigurationError as error:
        return None, [dataclasses.replace(p, path=_join(where, p.path)) for p in error.problems]
    except ValueError as error:
        return None, [Problem(path=where, found="", expected=str(error))]


def check(declared: Declaration, raw: Mapping[str, Any], where: str) -> list[Problem]:
    """What is wrong with raw parameters as far as the declaration tells; imports nothing of fedsec's own."""
    return _check(declared.fields, raw, where, _check_nested)[1]


def rebuild(group: str, spec: Mapping[str, Any]) -> Any:
    """The object whose ``spec()`` this is.

    Raises:
        PluginError: the plugin is not there or cannot be imported.
        ConfigurationError: its parameters cannot be what it takes.
    """
    cls = registry.get(group, str(spec.get("name", "")))
    built, problems = validate(cls, {key: value for key, value in spec.items() if key != "name"}, str(spec.get("name")))
    if problems:
        raise ConfigurationError(problems)
    return built


def shown(value: Any) -> str:
    """A raw value as an error shows it, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(str(key) for key in value)[:60]}" if value else "an empty mapping"
    text = f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def expected_text(annotation: Any) -> str:
    """Type and constraints of an annotation, as an error says them."""
    return f"expected {_bounded(_type_text(annotation), _constraints(annotation))}"


def _bounded(kind: str, constraints: str) -> str:
    """As in ``number > 0 or null``."""
    head, null, rest = kind.partition(" or null")
    return f"{head} {constraints}{null}{rest}" if constraints else kind


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The values that an annotation lists, those of the members of a union included."""
    bare, _ = _parts(annotation)
    if typing.get_origin(bare) in (Union, types.UnionType):
        return tuple(choice for member in typing.get_args(bare) for choice in choices_of(member))
    return _choices(bare)


def split_spec(value: Any) -> tuple[str, dict[str, Any]] | None:
    """Name and parameters of a raw plugin: ``name`` or ``{name, **parameters}``; ``None`` if it is neither."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return value["name"], {str(key): item for key, item in value.items() if key != "name"}
    return None


def _check(
    fields: tuple[DeclaredField, ...], raw: Mapping[str, Any], where: str, build: Builder
) -> tuple[dict[str, Any], list[Problem]]:
    given = {key: _tuples(value) for key, value in raw.items()}
    try:
        return _adapter(fields).validate_python(given, context={"build": build}), []
    except ValidationError as error:
        return {}, _problems(error, fields, raw, where)


def _adapter(fields: tuple[DeclaredField, ...]) -> TypeAdapter[dict[str, Any]]:
    return _cached_adapter(_ById(fields))


@dataclass(frozen=True)
class _ById:
    """Fields as a cache key by identity: their annotations need not be hashable."""

    fields: tuple[DeclaredField, ...]

    def __hash__(self) -> int:
        return hash(tuple(id(field) for field in self.fields))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and [id(f) for f in self.fields] == [id(f) for f in other.fields]


@cache
def _cached_adapter(key: _ById) -> TypeAdapter[dict[str, Any]]:
    # A typed dictionary, unlike a model, has no attributes that a parameter's name could shadow.
    items = {
        field.name: field.annotation if field.default is REQUIRED else NotRequired[field.annotation]
        for field in key.fields
    }
    make: Any = TypedDict
    shape = make("Parameters", items)
    shape.__pydantic_config__ = _STRICT
    return TypeAdapter(shape)


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple | list) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _problems(
    error: ValidationError, fields: tuple[DeclaredField, ...], raw: Mapping[str, Any], where: str
) -> list[Problem]:
    parameters = {parameter.name: parameter for parameter in describe(fields)}
    choices = {field.name: choices_of(field.annotation) for field in fields}
    found: dict[str, Problem] = {}
    for item in error.errors(include_url=False):
        name = str(item["loc"][0]) if item["loc"] else ""
        path = _join(where, name)
        for problem in (item.get("ctx") or {}).get("problems", ()):
            inner = dataclasses.replace(problem, path=_join(path, problem.path))
            found.setdefault(f"{inner.path} {inner.expected}", inner)
        if item["type"] == "nested_plugin":
            continue
        if item["type"] == "extra_forbidden":
            known = f"parameters: {', '.join(parameters)}" if parameters else "it has no parameters"
            hint = closest(name, parameters) or known[0].upper() + known[1:]
            found[path] = Problem(path=path, found="", expected="unknown parameter", hint=hint)
        elif item["type"] == "missing":
            found[path] = Problem(
                path=path, found="nothing", expected=f"{parameters[name].expected}, and it is required"
            )
        else:
            hint = closest(raw[name], choices[name]) if isinstance(raw[name], str) else ""
            found[path] = Problem(path=path, found=shown(raw[name]), expected=parameters[name].expected, hint=hint)
    return list(found.values())


def _join(where: str, name: str) -> str:
    if not where or not name or name.startswith("["):
        return where + name
    return f"{where}.{name}"


def _nested_parts(value: Any, base: str) -> tuple[str, dict[str, Any], str, Declaration]:
    kind = base.split(":")[1].lower()
    parts = split_spec(value)
    if parts is None:
        problem = Problem(path="", found=shown(value), expected=f"expected the name of an {kind}, or a mapping with it")
        raise _nested_error([problem])
    try:
        group, declared = registry.nested(parts[0], base)
    except PluginError as error:
        problem = Problem(path="name" if isinstance(value, Mapping) else "", found="", expected=str(error))
        raise _nested_error([problem]) from error
    return parts[0], parts[1], group, declared


def _nested_error(problems: list[Problem]) -> PydanticCustomError:
    return PydanticCustomError("nested_plugin", "the nested plugin cannot be built", {"problems": problems})


def _check_nested(value: Any, base: str) -> Any:
    _, parameters, _, declared = _nested_parts(value, base)
    problems = check(declared, parameters, "")
    if problems:
        raise _nested_error(problems)
    return value


def _build_nested(value: Any, base: str) -> Any:
    name, parameters, group, _ = _nested_parts(value, base)
    try:
        cls = registry.get(group, name)
    except PluginError as error:
        raise _nested_error([Problem(path="", found="", expected=str(error))]) from error
    built, problems = validate(cls, parameters, "")
    if problems:
        raise _nested_error(problems)
    return built


def _parts(annotation: Any) -> tuple[Any, list[Any]]:
    """The bare type and its metadata, with those of a `FieldInfo` among them."""
    if typing.get_origin(annotation) is not Annotated:
        return annotation, []
    bare, *metadata = typing.get_args(annotation)
    flat: list[Any] = []
    for item in metadata:
        flat.extend([item, *item.metadata] if isinstance(item, FieldInfo) else [item])
    return bare, flat


def _nested_mark(metadata: Iterable[Any]) -> NestedPlugin | None:
    return next((item for item in metadata if isinstance(item, NestedPlugin)), None)


def _type_text(annotation: Any) -> str:
    bare, metadata = _parts(annotation)
    if nested := _nested_mark(metadata):
        return f"{nested.base.split(':')[1].lower()}"
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if choices := _choices(bare):
        others = " or null" if type(None) in arguments else ""
        return f"one of {' | '.join(choices)}{others}"
    if origin in (Union, types.UnionType):
        return " or ".join(_bounded(_type_text(a), _constraints(a)) for a in arguments)
    if origin is tuple:
        items = [a for a in arguments if a is not Ellipsis]
        texts = list(dict.fromkeys(_bounded(_type_text(a), _constraints(a)) for a in items))
        count = "" if Ellipsis in arguments else f"{len(items)} "
        return f"list of {count}{', '.join(texts)}"
    if origin is list:
        return f"list of {_type_text(arguments[0])}"
    if origin is dict or (isinstance(bare, type) and issubclass(bare, BaseModel)):
        return "mapping"
    return _TYPE_NAMES.get(bare, getattr(bare, "__name__", str(bare)))


def _choices(annotation: Any) -> tuple[str, ...]:
    bare, _ = _parts(annotation)
    if typing.get_origin(bare) is Literal:
        return tuple(str(value) for value in typing.get_args(bare))
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return tuple(str(member.value) for member in bare)
    if typing.get_origin(bare) in (Union, types.UnionType):
        rest = [a for a in typing.get_args(bare) if a is not type(None)]
        return _choices(rest[0]) if len(rest) == 1 else ()
    return ()


def _constraints(annotation: Any) -> str:
    _, metadata = _parts(annotation)
    texts = []
    for name, text in (*_BOUNDS, *_LENGTHS):
        for item in metadata:
            value = None if isinstance(item, FieldInfo) else getattr(item, name, None)
            if value is not None:
                texts.append(text.format(value))
    return ", ".join(dict.fromkeys(texts))


def _description(annotation: Any) -> str:
    _, metadata = _parts(annotation)
    return next((item.description for item in metadata if isinstance(item, FieldInfo) and item.description), "")


def _inline(value: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        if "$ref" in value:
            return _inline(definitions[str(value["$ref"]).rsplit("/", 1)[-1]], definitions)
        return {key: _inline(item, definitions) for key, item in value.items()}
    return [_inline(item, definitions) for item in value] if isinstance(value, list) else value
