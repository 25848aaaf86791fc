"""Run a reproduction and set what was measured beside what was published."""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsec.errors import FedsecError
from fedsec.reproductions.catalogue import Figure, Reproduction

Value = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class Row:
    """One figure, published and measured.

    Attributes:
        figure: what was asked.
        value: measured; ``None`` if it was not.
        low: lower end of its 95 % interval, if there is one.
        high: upper end.
        reason: why nothing was measured.
    """

    figure: Figure
    value: float | None
    low: float | None
    high: float | None
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether the measured value lies in the band."""
        return self.value is not None and self.figure.low <= self.value <= self.figure.high


@dataclass(frozen=True)
class Comparison:
    """All figures of one reproduction.

    Attributes:
        reproduction: what was run.
        rows: in the order of its file.
        seconds: wall-clock time of this run (what was finished before is not run again).
    """

    reproduction: Reproduction
    rows: tuple[Row, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every figure lies in its band."""
        return all(row.holds for row in self.rows)


def run(reproduction: Reproduction, *, output: Path, jobs: int | None = None, progress: str = "auto") -> Comparison:
    """Run a reproduction; an audit resumes where it was stopped.

    Args:
        reproduction: what to run.
        output: folder for the results of its audits.
        jobs: worker processes of the audits.
        progress: as for ``fedsec audit``.

    Raises:
        ConfigurationError: its audit is misconfigured.
        FedsecError: its function is missing.
    """
    started = time.perf_counter()
    if reproduction.recipe.audit is not None:
        found = _audited(reproduction.recipe.audit, output, jobs=jobs, progress=progress)
    else:
        found = _measured(str(reproduction.recipe.measure), output=output, jobs=jobs, progress=progress)
    rows = tuple(_row(figure, found) for figure in reproduction.recipe.figures)
    return Comparison(reproduction, rows, time.perf_counter() - started)


def key(read: str) -> str:
    """How a figure names its number, with blanks around ``|`` made even."""
    return " | ".join(part.strip() for part in read.split("|"))


def _row(figure: Figure, found: Mapping[str, Value | str]) -> Row:
    there = found.get(key(figure.read))
    if there is None:
        known = ", ".join(sorted(found)[:12])
        return Row(figure, None, None, None, f"nothing was measured under {figure.read!r}; there is {known}")
    if isinstance(there, str):
        return Row(figure, None, None, None, there)
    return Row(figure, *there)


def _measured(target: str, **offered: Any) -> dict[str, Value | str]:
    """What a function returns; it is given ``output``, ``jobs`` and ``progress`` where it has such a parameter."""
    module, _, name = target.partition(":")
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise FedsecError(f"{target} cannot be found: {error}") from error
    known = inspect.signature(function).parameters
    given = {name: value for name, value in offered.items() if name in known}
    return {key(str(label)): _value(value) for label, value in function(**given).items()}


def _value(value: float | Sequence[float]) -> Value:
    if isinstance(value, Sequence):
        middle, low, high = value
        return float(middle), float(low), float(high)
    return float(value), None, None


def _audited(raw: Mapping[str, Any], output: Path, *, jobs: int | None, progress: str) -> dict[str, Value | str]:
    from fedsec.audit.api import Audit
    from fedsec.config import config_from

    result = Audit(config_from(raw)).run(output, jobs=jobs, progress=progress)
    found: dict[str, Value | str] = {}
    for finding in result.document["findings"]:
        place = f"{finding['attack']} | {finding['stack']}"
        for name, metric in finding["metrics"].items():
            found[f"{place} | {name}"] = (metric["value"], metric["low"], metric["high"])
        if finding["status"] != "measured":
            found[f"{place} | {finding['status']}"] = f"{finding['status']}: {finding['reason']}"
    for utility in result.document["utilities"]:
        accuracy = utility.get("accuracy") or {}
        if "value" in accuracy:
            found[f"none | {utility['stack']} | accuracy"] = (accuracy["value"], accuracy["low"], accuracy["high"])
    return found
