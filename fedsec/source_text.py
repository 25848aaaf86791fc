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
from typing import Any, Protocol

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
                    return evaluate(value, owner.module, _ClassScope(owner, name))
        raise Unreadable(f"{self.key} has no literal {name}")


@dataclass(frozen=True)
class _ClassScope:
    """The names that a class body has defined, for the value of one of them."""

    owner: SourceClass
    but: str

    def _find(self, name: str) -> ast.expr | None:
        for statement in self.owner.node.body:
            target, value = _assignment(statement)
            if target == name != self.but:
                return value
        return None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __getitem__(self, name: str) -> Any:
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return evaluate(found, self.owner.module, _ClassScope(self.owner, name))


class Scope(Protocol):
    """Names that hide those of a module."""

    def __contains__(self, name: object, /) -> bool: ...

    def __getitem__(self, name: str, /) -> Any: ...


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
            found.update(_assigned(statement))
    return found


def _assigned(statement: ast.stmt) -> dict[str, ast.AST]:
    """Names and values of an assignment, those of ``A, B = 1, 2`` included."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
        names = statement.targets[0].elts
        if isinstance(statement.value, ast.Tuple) and len(names) == len(statement.value.elts):
            pairs = zip(names, statement.value.elts, strict=True)
            return {name.id: value for name, value in pairs if isinstance(name, ast.Name)}
    target, value = _assignment(statement)
    return {target: value} if target and value is not None else {}


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


def evaluate(node: ast.AST, module: str, scope: Scope | None = None) -> Any:
    """The value of an expression in the literal forms in which metadata and annotations are written.

    Args:
        node: the expression.
        module: whose names it uses.
        scope: names that hide those of the module.

    Raises:
        Unreadable: it is of another form.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return scope[name] if scope is not None and name in scope else resolve(module, name)
        case ast.Tuple(elts=items):
            return tuple(evaluate(item, module, scope) for item in items)
        case ast.List(elts=items):
            return [evaluate(item, module, scope) for item in items]
        case ast.Set(elts=items):
            return {evaluate(item, module, scope) for item in items}
        case ast.Dict(keys=keys, values=values):
            return {
                evaluate(k, module, scope): evaluate(v, module, scope) for k, v in zip(keys, values, strict=True) if k
            }
        case ast.JoinedStr(values=parts):
            return "".join(
                str(evaluate(part.value if isinstance(part, ast.FormattedValue) else part, module, scope))
                for part in parts
            )
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](evaluate(operand, module, scope))
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _BINARY:
            return _apply(_BINARY[type(symbol)], evaluate(left, module, scope), evaluate(right, module, scope))
        case ast.IfExp(test=test, body=then, orelse=otherwise):
            return evaluate(then if evaluate(test, module, scope) else otherwise, module, scope)
        case ast.Attribute(value=owner, attr=name):
            return _attribute(evaluate(owner, module, scope), name)
        case ast.Subscript(value=owner, slice=index):
            return _apply(operator.getitem, evaluate(owner, module, scope), evaluate(index, module, scope))
        case ast.Call():
            return _call(node, module, scope)
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


def _call(node: ast.Call, module: str, scope: Scope | None) -> Any:
    function = evaluate(node.func, module, scope)
    if any(keyword.arg is None for keyword in node.keywords):
        raise Unreadable(f"{module}: {ast.unparse(node)} is computed")
    arguments = [evaluate(argument, module, scope) for argument in node.args]
    keywords = {keyword.arg or "": evaluate(keyword.value, module, scope) for keyword in node.keywords}
    if isinstance(function, SourceFunction):
        return _returned(function, arguments, keywords)
    if isinstance(function, SourceClass):
        if arguments:
            raise Unreadable(f"{module}: {ast.unparse(node)} has positional arguments")
        return SourceInstance(function, tuple(keywords.items()))
    try:
        return function(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise Unreadable(f"{module}: {ast.unparse(node)}: {error}") from error


def _returned(function: SourceFunction, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """What a function gives whose body is one return statement."""
    signature = function.node.args
    statements = [s for s in function.node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if len(statements) != 1 or not isinstance(statements[0], ast.Return) or statements[0].value is None:
        raise Unreadable(f"{function.module}:{function.node.name} does more than return a literal")
    names = [argument.arg for argument in (*signature.posonlyargs, *signature.args)]
    bound = dict(zip(names, arguments, strict=False)) | keywords
    if signature.vararg is not None:
        bound[signature.vararg.arg] = tuple(arguments[len(names) :])
    defaults = [*zip(names[::-1], signature.defaults[::-1], strict=False)]
    defaults += [(a.arg, d) for a, d in zip(signature.kwonlyargs, signature.kw_defaults, strict=True) if d is not None]
    for name, default in defaults:
        if name not in bound:
            bound[name] = evaluate(default, function.module)
    return evaluate(statements[0].value, function.module, bound)
