"""A configuration that is being checked: raw values, where they stand, and what is wrong so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from fedsec.config.paths import Key, Path, covers, parsed, written
from fedsec.config.yaml_lines import Document, read_yaml
from fedsec.errors import Problem
from fedsec.parameters import shown

MISSING: Any = object()
"""What `Draft.at` gives where nothing stands."""


def _step(value: Any, key: Key) -> Any:
    if isinstance(value, dict) and isinstance(key, str):
        return value.get(key, MISSING)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return MISSING


class Draft:
    """Raw values with their lines; collects problems."""

    def __init__(self, document: Document, file: str) -> None:
        self.raw: Any = document.value
        self.problems: list[Problem] = list(document.problems)
        self._document = document
        self._file = file
        self._faulty = list(document.faulty)
        self._overridden: list[str] = []

    def line(self, path: str) -> int | None:
        """The line of a path in the file; ``None`` if it came from elsewhere."""
        if any(covers(given, path) for given in self._overridden):
            return None
        return self._document.line(path)

    def report(self, path: str, expected: str, found: str = "", hint: str = "") -> None:
        """Add a problem, with its place in the file."""
        self.add([Problem(path=path, found=found, expected=expected, hint=hint)])

    def add(self, problems: Iterable[Problem]) -> None:
        """Add problems, with their places; what lies in a part that is known to be wrong is not repeated."""
        for problem in problems:
            if any(covers(path, problem.path) for path in self._faulty):
                continue
            if problem.path:
                self._faulty.append(problem.path)
            elsewhere = any(covers(given, problem.path) for given in self._overridden)
            place = "" if elsewhere else self._file
            self.problems.append(dataclasses.replace(problem, file=place, line=self.line(problem.path)))

    def sound(self, *paths: str) -> bool:
        """Whether nothing is wrong at, in or around these paths."""
        return not any(covers(faulty, path) or covers(path, faulty) for faulty in self._faulty for path in paths)

    def at(self, path: str) -> Any:
        """The raw value of a path, or `MISSING`."""
        value = self.raw
        for key in parsed(path) or ():
            value = _step(value, key)
        return value

    def given(self, path: str, default: Any) -> Any:
        """The raw value of a path, or the default where nothing stands."""
        value = self.at(path)
        return default if value is MISSING else value

    def override(self, text: str) -> None:
        """Apply ``path=value``, the value being YAML; a name becomes a mapping where a key below it is set."""
        head, equals, tail = text.partition("=")
        path = parsed(head.strip())
        if not equals or path is None:
            self.problems.append(
                Problem(
                    path="--set", found=shown(text), expected="expected path=value", hint="As in federation.rounds=5"
                )
            )
            return
        value = read_yaml(tail.encode())
        if value.problems:
            self.problems.append(Problem(path=f"--set {head}", found=shown(tail), expected=value.problems[0].expected))
            return
        if self.raw is None:
            self.raw = {}
        if self._put(path, value.value):
            self._overridden.append(written(path))

    def _put(self, path: Path, value: Any) -> bool:
        holder: Any = self.raw
        for depth, key in enumerate(path):
            last = depth == len(path) - 1
            if isinstance(key, int) and isinstance(holder, dict):
                key = str(key)
            if isinstance(holder, list) and isinstance(key, int) and key < len(holder):
                step = holder[key]
            elif isinstance(holder, dict) and isinstance(key, str):
                step = holder.get(key, {})
            else:
                where = written(path[:depth]) or "the configuration"
                have = f"a list of {len(holder)}" if isinstance(holder, list) else shown(holder)
                self.problems.append(
                    Problem(path=f"--set {written(path)}", found=f"{where}, which is {have}", expected="no such path")
                )
                return False
            if not last and isinstance(step, str):
                step = {"name": step}
            holder[key] = value if last else step
            holder = step
        return True
