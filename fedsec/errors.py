"""Errors that teach: what was found, where, why it cannot work and what to type instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with what the user gave.

    Attributes:
        path: where in the configuration, as in ``attacks[1].restarts``; empty if nowhere in particular.
        found: what stands there, in the user's words.
        expected: why that cannot work, or what may stand there.
        hint: what to type instead; empty if nothing better is known.
        file: the file, empty for ``--set`` and the Python API.
        line: line in the file, counted from 1; ``None`` if unknown.
    """

    path: str
    found: str
    expected: str
    hint: str = ""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = ":".join(part for part in (self.file, str(self.line) if self.line else "") if part)
        head = " ".join(part for part in (where, self.path) if part)
        text = f"{head}: {self.expected}, found {self.found}" if self.found else f"{head}: {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text


class FedsecError(Exception):
    """Base of every error that fedsec raises for a user's benefit (shown without a traceback)."""


class ConfigurationError(FedsecError):
    """The configuration, a parameter or a stack cannot work; carries every problem at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(FedsecError):
    """A dataset is missing, damaged or not what its loader expects."""


class PluginError(FedsecError):
    """A plugin cannot be found, imported or used."""


class NotKnownError(FedsecError):
    """An attack reached for knowledge that its threat model does not declare."""
