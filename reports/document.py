"""The result file, read leniently where parts may be missing and strictly where a reader could be misled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsec.errors import DataError

SCHEMA = "fedsec/audit/1"
NOT_IN_FILE = "the audit holds no result for this pair"


def table(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key, empty if it is missing or null."""
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def rows(mapping: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The list of objects under a key, empty if it is missing or null."""
    value = mapping.get(key)
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []


def texts(mapping: Mapping[str, Any], key: str) -> list[str]:
    """The list of strings under a key, empty if it is missing or null."""
    value = mapping.get(key)
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def number_of(mapping: Mapping[str, Any], key: str) -> float | None:
    """The number under a key, ``None`` if it is missing, null or not a number."""
    value = mapping.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A result file with its findings indexed by attack and stack.

    Attributes:
        raw: the document as it was read.
        attacks: attacks in the order of the file, by label; a label that only findings name has an empty entry.
        stacks: stacks likewise.
        findings: by ``(attack, stack)``; a pair without one counts as not run.
        utilities: by stack.
        baseline: label of the stack without defenses, ``None`` if the audit has none.
    """

    raw: Mapping[str, Any]
    attacks: Mapping[str, Mapping[str, Any]]
    stacks: Mapping[str, Mapping[str, Any]]
    findings: Mapping[tuple[str, str], Mapping[str, Any]]
    utilities: Mapping[str, Mapping[str, Any]]
    baseline: str | None

    def finding(self, attack: str, stack: str) -> Mapping[str, Any]:
        """The finding of a pair; a pair that the file does not mention was not run."""
        absent = {"attack": attack, "stack": stack, "status": "not run", "reason": NOT_IN_FILE}
        return self.findings.get((attack, stack), absent)

    def cells(self, attack: str) -> list[Mapping[str, Any]]:
        """The cells of an attack, in the order of the file."""
        return [cell for cell in rows(self.raw, "cells") if str(cell.get("attack")) == attack]


def read(document: Mapping[str, Any]) -> Audit:
    """Index a result file.

    Args:
        document: the parsed ``audit.json``.

    Raises:
        DataError: if it is not a result file of the schema that this version reads.
    """
    found = document.get("schema")
    if found != SCHEMA:
        raise DataError(
            f"this version of fedsec renders result files of schema {SCHEMA!r} and found {found!r}; "
            "run the audit again, or render it with the version that wrote it (see its `tool` entry)"
        )
    findings = rows(document, "findings")
    attacks = _labelled(rows(document, "attacks"), [str(finding.get("attack")) for finding in findings])
    stacks = _labelled(rows(document, "stacks"), [str(finding.get("stack")) for finding in findings])
    return Audit(
        raw=document,
        attacks=attacks,
        stacks=stacks,
        findings={(str(row.get("attack")), str(row.get("stack"))): row for row in findings},
        utilities={str(row.get("stack")): row for row in rows(document, "utilities")},
        baseline=_baseline(stacks),
    )


def score_of(mapping: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], str]:
    """Name, estimate and unit of what a model is scored by: its accuracy, or R² in a regression."""
    if isinstance(mapping.get("r2"), Mapping):
        return "R²", table(mapping, "r2"), ""
    accuracy = table(mapping, "accuracy")
    return "accuracy", accuracy, str(accuracy.get("unit", "share"))


def drop_of(utility: Mapping[str, Any]) -> float | None:
    """What a stack costs in accuracy, against the stack without defenses."""
    return number_of(table(utility, "accuracy_drop"), "value")


def headline(finding: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Name and numbers of the metric that severity is judged on; empty if nothing was measured."""
    metrics = table(finding, "metrics")
    for name, metric in metrics.items():
        if isinstance(metric, Mapping) and metric.get("headline"):
            return name, metric
    return "", {}


def _labelled(entries: Sequence[Mapping[str, Any]], mentioned: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    labelled: dict[str, Mapping[str, Any]] = {str(entry.get("label")): entry for entry in entries}
    return labelled | {label: {"label": label} for label in mentioned if label not in labelled}


def _baseline(stacks: Mapping[str, Mapping[str, Any]]) -> str | None:
    bare = [label for label, stack in stacks.items() if stack.get("defenses") == []]
    return bare[0] if bare else ("none" if "none" in stacks else None)
