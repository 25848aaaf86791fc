"""What a plugin declares: metadata and fields, the same from its source as from the imported class."""

from __future__ import annotations

import ast
import dataclasses
import enum
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic_core import core_schema

from fedsec.plugin import Plugin
from fedsec.source_text import SourceClass, SourceFunction, SourceInstance, Unreadable, class_key, evaluate, resolve
from fedsec.threat import ThreatModel

PLUGIN = class_key(Plugin)
ATTACK = "fedsec.protocol.parties:Attack"
ADVERSARY = "fedsec.protocol.parties:Adversary"
DEFENSE = "fedsec.protocol.stage:Defense"

REQUIRED: Any = dataclasses.MISSING
"""The default of a field that has none."""

Builder = Callable[[Any, str], Any]
"""Makes the object of a nested plugin from its raw value and the key of its base class."""


@dataclass(frozen=True)
class NestedPlugin:
    """Stands in an annotation for a plugin class: the raw value is a name, or ``{name, **parameters}``.

    The validation context's ``build`` (a `Builder`) turns the raw value into what the caller wants.
    """

    base: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """A plain call of the context's builder."""

        def build(value: Any, info: core_schema.ValidationInfo) -> Any:
            return (info.context or {})["build"](value, self.base)

        return core_schema.with_info_plain_validator_function(build)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """A name, or a mapping with one."""
        mapping = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
        return {"anyOf": [{"type": "string"}, mapping]}


@dataclass(frozen=True)
class DeclaredField:
    """One parameter as declared.

    Attributes:
        name: of the field.
        annotation: its type with constraints and description, ready for pydantic.
        default: a JSON-able value (a nested plugin as ``{name, **parameters}``), or `REQUIRED`.
    """

    name: str
    annotation: Any
    default: Any


@dataclass(frozen=True, eq=False)
class Declaration:
    """What a plugin says about itself.

    Attributes:
        name: as typed in a configuration.
        summary: one sentence.
        family: the family that it is reported under; empty where the group has none.
        bases: keys of the class and its bases.
        fields: its parameters.
        threat: an attack's threat model; ``None`` where there is none or where only an import would tell.
        judge: name of an attack's judge; empty likewise.
    """

    name: str
    summary: str
    family: str
    bases: tuple[str, ...]
    fields: tuple[DeclaredField, ...]
    threat: ThreatModel | None = None
    judge: str = ""


def read_source(module: str, name: str, *, with_fields: bool = True) -> Declaration:
    """The declaration of one of fedsec's own plugins, from its source.

    Args:
        module: as in ``fedsec.attacks.inversion.dlg``.
        name: of the class or function in it.
        with_fields: without them only metadata is read, which is faster.

    Raises:
        Unreadable: something in it is not written as a literal.
    """
    found = resolve(module, name)
    if isinstance(found, SourceFunction):
        summary = (ast.get_docstring(found.node) or "").split("\n")[0].rstrip(".")
        return Declaration(name=name, summary=summary, family="", bases=(), fields=())
    if not isinstance(found, SourceClass):
        raise Unreadable(f"{module}:{name} is neither a class nor a function")
    return Declaration(
        name=str(found.attribute("name")),
        summary=str(found.attribute("summary")),
        family=_optional_text(found, "family"),
        bases=tuple(ancestor.key for ancestor in found.ancestry()),
        fields=_source_fields(found) if with_fields else (),
        threat=_source_threat(found) if with_fields else None,
        judge=_optional_text(found, "judge") if with_fields else "",
    )


def read_class(cls: type) -> Declaration:
    """The declaration of an imported plugin class."""
    threat = getattr(cls, "threat", None)
    return Declaration(
        name=str(getattr(cls, "name", "")),
        summary=str(getattr(cls, "summary", "")),
        family=str(getattr(cls, "family", "")),
        bases=tuple(class_key(base) for base in cls.__mro__ if base is not object),
        fields=class_fields(cls),
        threat=threat if isinstance(threat, ThreatModel) else None,
        judge=str(getattr(cls, "judge", "")),
    )


@cache
def class_fields(cls: type) -> tuple[DeclaredField, ...]:
    """The parameters of an imported plugin class; none if it is no dataclass."""
    if not dataclasses.is_dataclass(cls):
        return ()
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = []
    for field in dataclasses.fields(cls):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        fields.append(DeclaredField(field.name, for_pydantic(hints[field.name]), plain(default)))
    return tuple(fields)


def plain(value: Any) -> Any:
    """A parameter's value as JSON knows it; tuples stay tuples."""
    if isinstance(value, Plugin):
        return value.spec()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    return value


def for_pydantic(annotation: Any) -> Any:
    """The annotation with plugin classes replaced by `NestedPlugin` and enumerations read from their values."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        if issubclass(annotation, Plugin):
            return Annotated[Any, NestedPlugin(class_key(annotation))]
        if issubclass(annotation, enum.Enum):
            return Annotated[annotation, Strict(False)]
        return annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return Annotated[(for_pydantic(arguments[0]), *arguments[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(for_pydantic(argument) for argument in arguments)]  # noqa: UP007 - computed
    if origin is tuple:
        return tuple[tuple(a if a is Ellipsis else for_pydantic(a) for a in arguments)]  # type: ignore[misc]
    return annotation


def _optional_text(found: SourceClass, name: str) -> str:
    try:
        return str(found.attribute(name))
    except Unreadable:
        return ""


def _source_threat(found: SourceClass) -> ThreatModel | None:
    try:
        threat = found.attribute("threat")
    except Unreadable:
        return None
    return threat if isinstance(threat, ThreatModel) else None


def _source_fields(found: SourceClass) -> tuple[DeclaredField, ...]:
    fields: dict[str, DeclaredField] = {}
    for owner in reversed(found.ancestry()):
        if not any("dataclass" in ast.unparse(decorator) for decorator in owner.node.decorator_list):
            continue  # annotations of a base that is no dataclass are no fields
        for statement in owner.node.body:
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            if ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar")):
                continue
            name = statement.target.id
            annotation = _annotation(statement.annotation, owner.module)
            default = REQUIRED if statement.value is None else _default(statement.value, owner.module)
            fields[name] = DeclaredField(name, annotation, default)
    return tuple(fields.values())


def _annotation(node: ast.expr, module: str) -> Any:
    """Like `evaluate`, with classes of fedsec's own as pydantic must see them."""
    match node:
        case ast.Constant(value=str(text)):
            return _annotation(ast.parse(text, mode="eval").body, module)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_annotation(left, module), _annotation(right, module)]  # noqa: UP007 - computed
        case ast.Subscript(value=owner, slice=index):
            outer = evaluate(owner, module)
            if outer is Annotated and isinstance(index, ast.Tuple):
                inner = _annotation(index.elts[0], module)
                return Annotated[(inner, *(evaluate(item, module) for item in index.elts[1:]))]
            if outer is tuple:
                items = index.elts if isinstance(index, ast.Tuple) else [index]
                return tuple[tuple(_annotation(item, module) for item in items)]  # type: ignore[misc]
    value = evaluate(node, module)
    if isinstance(value, SourceClass):
        return _source_annotation(value)
    return for_pydantic(value) if value is not Ellipsis else value


def _source_annotation(found: SourceClass) -> Any:
    if any(ancestor.key == PLUGIN for ancestor in found.ancestry()):
        return Annotated[Any, NestedPlugin(found.key)]
    if any(ast.unparse(base) in {"StrEnum", "enum.StrEnum"} for base in found.node.bases):
        names = [s.targets[0] for s in found.node.body if isinstance(s, ast.Assign)]
        return Literal[tuple(found.attribute(name.id) for name in names if isinstance(name, ast.Name))]
    raise Unreadable(f"{found.key} is no type of a parameter")


def _default(node: ast.expr, module: str) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"field", "dataclasses.field"}:
        for keyword in node.keywords:
            if keyword.arg == "default":
                return _default(keyword.value, module)
            if keyword.arg == "default_factory":
                factory = keyword.value
                if isinstance(factory, ast.Lambda):
                    return _default(factory.body, module)
                return _default(ast.Call(func=factory, args=[], keywords=[]), module)
        return REQUIRED
    return _source_plain(evaluate(node, module))


def _source_plain(value: Any) -> Any:
    if isinstance(value, SourceInstance):
        given = {name: _source_plain(argument) for name, argument in value.arguments}
        defaults = {field.name: field.default for field in _source_fields(value.of)}
        # like `Plugin.spec` of the carried plugin, whose tuples are lists
        held = {k: list(v) if isinstance(v, tuple) else v for k, v in {**defaults, **given}.items()}
        return {"name": value.of.attribute("name"), **held}
    if isinstance(value, tuple | list):
        return tuple(_source_plain(item) for item in value)
    return plain(value)


__all__ = [
    "ADVERSARY",
    "ATTACK",
    "DEFENSE",
    "PLUGIN",
    "REQUIRED",
    "Builder",
    "Declaration",
    "DeclaredField",
    "NestedPlugin",
    "class_fields",
    "class_key",
    "for_pydantic",
    "plain",
    "read_class",
    "read_source",
]
