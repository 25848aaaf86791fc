"""What fedsec's own plugins say about themselves, read from their source without importing it.

Importing a plugin imports torch, which takes longer than everything else that listing plugins and checking a
configuration do. This module evaluates the few literal forms in which metadata and parameters are written; what it
cannot read it says so (`Unreadable`), and nothing is guessed. Only fedsec's own files are read this way.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LIGHT_MODULES = frozenset(
    {"typing", "collections.abc", "dataclasses", "enum", "math", "pydantic", "annotated_types", "fedsec.threat"}
)
"""Modules whose objects are taken as they are: cheap to import and free of torch."""

_BUILTINS = {
    name: getattr(builtins, name)
    for name in ("int", "float", "str", "bool", "tuple", "list", "dict", "set", "frozenset", "object", "range", "len")
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}


class Unreadable(Exception):
    """The source says it in a form that only running it would tell."""


@dataclass(frozen=True)
class SourceClass:
    """A class as its source has it."""

    module: str
    node: ast.ClassDef

    @property
    def key(self) -> str:
        """``module:name``, as `class_key` gives for the imported class."""
        return f"{self.module}:{self.node.name}"

    def ancestry(self) -> tuple[SourceClass, ...]:
        """The class and those of its bases that are fedsec's own, nearest first."""
        found: dict[str, SourceClass] = {self.key: self}
        for base in self.node.bases:
            try:
                value = evaluate(base, self.module)
            except Unreadable:
                continue
            if isinstance(value, SourceClass):
                for ancestor in value.ancestry():
                    # A shared base comes after everything that derives from it.
                    found.pop(ancestor.key, None)
                    found[ancestor.key] = ancestor
        return tuple(found.values())

    def attribute(self, name: str) -> Any:
        """The value that the class or its nearest base gives to a class attribute.

        Raises:
            Unreadable: nothing gives it one, or not as a literal.
        """
        for owner in self.ancestry():
            for statement in owner.node.body:
                target, value = _assignment(statement)
                if target == name and value is not None:
                    return evaluate(value, owner.module)
        raise Unreadable(f"{self.key} has no literal {name}")


@dataclass(frozen=True)
class SourceInstance:
    """A call of a class of fedsec's own, as in the default of a nested plugin."""

    of: SourceClass
    arguments: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class SourceFunction:
    """A function as its source has it."""

    module: str
    node: ast.FunctionDef


def class_key(cls: type) -> str:
    """``module:name`` of an imported class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def path_of(module: str) -> Path:
    """The file of one of fedsec's modules, found without importing its packages.

    Raises:
        Unreadable: there is no such file.
    """
    parts = module.split(".")
    top = ".".join(parts[:2])
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise Unreadable(f"there is no module {top}")
    origin = Path(spec.origin)
    if len(parts) <= 2:
        return origin
    stem = origin.parent.joinpath(*parts[2:])
    for candidate in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise Unreadable(f"there is no module {module}")


@cache
def _names(module: str) -> dict[str, ast.AST | tuple[str, str]]:
    """What the top level of a module defines: nodes, or ``(module, name)`` for imports."""
    try:
        tree = ast.parse(path_of(module).read_bytes())
    except SyntaxError as error:
        raise Unreadable(f"{module} has a syntax error in line {error.lineno}") from error
    except (OSError, ValueError) as error:
        raise Unreadable(f"{module} cannot be read: {error}") from error
    is_package = path_of(module).name == "__init__.py"
    found: dict[str, ast.AST | tuple[str, str]] = {}
    for statement in _statements(tree.body):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                root = alias.name.split(".")[0]
                found[alias.asname or root] = (alias.name if alias.asname else root, "")
        elif isinstance(statement, ast.ImportFrom):
            origin = statement.module or ""
            if statement.level:
                parent = module.split(".")
                keep = len(parent) - statement.level + (1 if is_package else 0)
                origin = ".".join([*parent[:keep], *([origin] if origin else [])])
            for alias in statement.names:
                found[alias.asname or alias.name] = (origin, alias.name)
        else:
            target, value = _assignment(statement)
            if target and value is not None:
                found[target] = value
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _statements(statement.body)
        else:
            yield statement


def _assignment(statement: ast.stmt) -> tuple[str, ast.expr | None]:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id, statement.value
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    return "", None


def resolve(module: str, name: str) -> Any:
    """The value of a module's top-level name.

    Raises:
        Unreadable: it is not there, or not a literal.
    """
    if module in LIGHT_MODULES:
        return getattr(importlib.import_module(module), name)
    if module.split(".")[0] != "fedsec":
        raise Unreadable(f"{module}.{name} is not read from its source")
    found = _names(module).get(name)
    if found is None:
        if name in _BUILTINS:
            return _BUILTINS[name]
        raise Unreadable(f"{module} does not define {name}")
    if isinstance(found, tuple):
        origin, attribute = found
        if attribute:
            return resolve(origin, attribute)
        if origin in LIGHT_MODULES:
            return importlib.import_module(origin)
        raise Unreadable(f"{module}.{name} is the module {origin}")
    if isinstance(found, ast.ClassDef):
        return SourceClass(module, found)
    if isinstance(found, ast.FunctionDef):
        return SourceFunction(module, found)
    return evaluate(found, module)


def evaluate(node: ast.AST, module: str) -> Any:  # noqa: PLR0911 - one return per form of literal
    """The value of an expression in the literal forms in which metadata and annotations are written.

    Raises:
        Unreadable: it is of another form.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return resolve(module, name)
        case ast.Tuple(elts=items):
            return tuple(evaluate(item, module) for item in items)
        case ast.List(elts=items):
            return [evaluate(item, module) for item in items]
        case ast.Set(elts=items):
            return {evaluate(item, module) for item in items}
        case ast.Dict(keys=keys, values=values):
            return {evaluate(k, module): evaluate(v, module) for k, v in zip(keys, values, strict=True) if k}
        case ast.JoinedStr(values=parts):
            return "".join(
                str(evaluate(part.value if isinstance(part, ast.FormattedValue) else part, module)) for part in parts
            )
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](evaluate(operand, module))
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _BINARY:
            return _apply(_BINARY[type(symbol)], evaluate(left, module), evaluate(right, module))
        case ast.Attribute(value=owner, attr=name):
            return _attribute(evaluate(owner, module), name)
        case ast.Subscript(value=owner, slice=index):
            return _apply(operator.getitem, evaluate(owner, module), evaluate(index, module))
        case ast.Call():
            return _call(node, module)
        case _:
            raise Unreadable(f"{module}: {ast.unparse(node) if isinstance(node, ast.expr) else node} is no literal")


def _apply(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    try:
        return function(left, right)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise Unreadable(str(error)) from error


def _attribute(owner: Any, name: str) -> Any:
    if isinstance(owner, SourceClass):
        return owner.attribute(name)
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise Unreadable(str(error)) from error


def _call(node: ast.Call, module: str) -> Any:
    function = evaluate(node.func, module)
    if isinstance(function, SourceFunction) or any(keyword.arg is None for keyword in node.keywords):
        raise Unreadable(f"{module}: {ast.unparse(node)} is computed")
    arguments = [evaluate(argument, module) for argument in node.args]
    keywords = {keyword.arg or "": evaluate(keyword.value, module) for keyword in node.keywords}
    if isinstance(function, SourceClass):
        if arguments:
            raise Unreadable(f"{module}: {ast.unparse(node)} has positional arguments")
        return SourceInstance(function, tuple(keywords.items()))
    try:
        return function(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise Unreadable(f"{module}: {ast.unparse(node)}: {error}") from error
