"""YAML as plain values with the line of every key, refusing whatever could surprise.

Scalars follow YAML 1.2's core schema: ``yes`` is text, ``1e-5`` is a number, dates are text. Tags beyond
that schema, duplicate keys, merge keys and documents that aliases blow up are problems; no bytes raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fedsec.config.paths import Path, written
from fedsec.errors import Problem

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
"""After aliases are followed."""

_SURROGATE = "an escape that is half a character"
_TAG = "tag:yaml.org,2002:"


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own form


_CORE = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
for _name, _pattern, _first in _CORE:
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), list(_first))


@dataclass
class Document:
    """A YAML document as plain values.

    Attributes:
        value: mappings, lists, text, numbers, booleans and ``None``.
        lines: for the written path of every key and item the line, counted from 1, where it stands.
        problems: everything that is wrong with it; what is wrong is left out of ``value``.
        faulty: paths whose value was left out for it.
    """

    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: list[str] = field(default_factory=list)

    def line(self, path: str) -> int | None:
        """The line of a path, or of the nearest thing around it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get("")


def split_documents(data: bytes) -> list[bytes]:
    """The documents of a YAML stream, each behind as many empty lines as stand before it, so that lines stay right.

    A line that begins with ``---`` at its first column starts a document (YAML 1.2.2, section 9.2); documents that
    hold nothing but comments are left out, unless all of them do.
    """
    parts: list[list[bytes]] = [[]]
    for number, line in enumerate(data.splitlines(keepends=True)):
        if line.rstrip() == b"---" or line.startswith((b"--- ", b"---\t")):
            parts.append([b"\n"] * number)
        parts[-1].append(line)
    whole = [b"".join(part) for part in parts]
    filled = [part for part in whole if any(_says_something(line) for line in part.splitlines())]
    return filled or [data]


def _says_something(line: bytes) -> bool:
    text = line.strip().removeprefix(b"---").strip()
    return bool(text) and not text.startswith(b"#")


def read_yaml(data: bytes, file: str = "") -> Document:
    """Read bytes; whatever they are, the result says what is wrong with them.

    Args:
        data: UTF-8, at most `MAX_BYTES`.
        file: named in problems.
    """
    document = Document()

    def refuse(expected: str, found: str = "", hint: str = "", line: int | None = None, path: str = "") -> None:
        document.problems.append(Problem(path=path, found=found, expected=expected, hint=hint, file=file, line=line))

    if len(data) > MAX_BYTES:
        refuse(f"a configuration has at most {MAX_BYTES:,} bytes", f"{len(data):,}")
        return document
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse("expected text in UTF-8", f"byte 0x{data[error.start]:02x}", line=data.count(b"\n", 0, error.start) + 1)
        return document
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
        if node is not None:
            document.value = _Reader(document, file).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = _yaml_hint(error.problem or "")
        refuse(f"not YAML: {error.problem or error}", hint=hint, line=mark.line + 1 if mark else None)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        refuse("not YAML: a character that may not stand in it", f"U+{ord(text[error.position]):04X}", line=line)
    except _TooLargeError as error:
        refuse(f"aliases make this more than {MAX_NODES:,} values", line=error.line)
    except RecursionError:
        refuse("nested too deeply")
    except (yaml.YAMLError, ValueError, OverflowError, ArithmeticError) as error:
        refuse(f"not YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    return document


class _TooLargeError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Reader:
    """Makes plain values of one document's nodes."""

    def __init__(self, document: Document, file: str) -> None:
        self._document = document
        self._file = file
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: Node, path: Path, line: int | None = None) -> Any:
        """The plain value of a node; ``line`` is that of its key."""
        here = line if line is not None else node.start_mark.line + 1
        self._document.lines[written(path)] = here
        self._count += 1
        if self._count > MAX_NODES:
            raise _TooLargeError(here)
        if id(node) in self._open:
            return self._refuse(node, path, "an alias may not stand inside what it names")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return {key: self.value(item, (*path, key), at) for key, item, at in self._pairs(node, path)}
        finally:
            self._open.discard(id(node))
        return self._refuse(node, path, f"the tag {node.tag!r} is not allowed")

    def _pairs(self, node: MappingNode, path: Path) -> Iterator[tuple[str, Node, int]]:
        seen: dict[str, int] = {}
        for key_node, item in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self._refuse(key_node, path, "a key is text, not a list or a mapping", is_left_out=False)
                continue
            if key_node.tag == _TAG + "merge":
                self._refuse(key_node, path, "merge keys are not allowed; write the keys out", is_left_out=False)
                continue
            key = _whole(key_node.value)
            if key is None:
                self._refuse(key_node, path, _SURROGATE, is_left_out=False)
                continue
            if key in seen:
                self._refuse(key_node, (*path, key), f"this key stands already in line {seen[key]}", is_left_out=False)
                continue
            seen[key] = line
            yield key, item, line

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        tag, text = node.tag.removeprefix(_TAG), _whole(node.value)
        if text is None:
            return self._refuse(node, path, _SURROGATE)
        try:
            match tag:
                case "str":
                    return text
                case "null":
                    return None
                case "bool" if text.lower() in {"true", "false"}:
                    return text.lower() == "true"
                case "int":
                    return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)
                case "float":
                    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return self._refuse(node, path, f"this cannot be read as {tag}", text[:60])
        return self._refuse(node, path, f"the tag {node.tag!r} is not allowed here", text[:60])

    def _refuse(self, node: Node, path: Path, expected: str, found: str = "", *, is_left_out: bool = True) -> None:
        if is_left_out and path:
            self._document.faulty.append(written(path))
        self._document.problems.append(
            Problem(path=written(path), found=found, expected=expected, file=self._file, line=node.start_mark.line + 1)
        )


def _whole(text: str) -> str | None:
    """The text with surrogate pairs joined, as JSON escapes them; ``None`` if one of them stands alone."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return None


def _yaml_hint(problem: str) -> str:
    if "'\\t'" in problem:
        return "Indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "Put text that contains ': ' in quotes, and check the indentation"
    if "undefined alias" in problem:
        return "A text that begins with * is put in quotes"
    return ""
