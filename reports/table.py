"""The CSV table: one line per attack, stack and metric, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from .document import drop_of, read, score_of, table
from .format import brief
from .severity import category_of

NUMBERS = ("value", "low", "high", "n", "floor", "ceiling", "advantage", "advantage_low", "advantage_high")
COLUMNS = (
    "attack", "family", "category", "stack", "status", "severity", "metric", "headline", *NUMBERS, "unit",
    "resolution", "adaptive", "control_succeeded", "accuracy", "accuracy_drop", "ratio_upload", "ratio_seconds",
    "reason",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def render(document: Mapping[str, Any]) -> str:
    """Render a result file as CSV, numbers unrounded.

    A pair without a number has one line with an empty metric. Text that a spreadsheet would run as a formula is
    quoted with an apostrophe.

    Args:
        document: the parsed ``audit.json``.

    Raises:
        DataError: if the document is of another schema.
    """
    audit = read(document)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for attack, entry in audit.attacks.items():
        for stack in audit.stacks:
            finding = audit.finding(attack, stack)
            utility = audit.utilities.get(stack, {})
            common = {
                "attack": attack,
                "family": finding.get("family") or entry.get("family"),
                "category": category_of(entry),
                "stack": stack,
                "status": finding.get("status"),
                "severity": finding.get("severity"),
                "adaptive": finding.get("adaptive"),
                "control_succeeded": finding.get("control_succeeded"),
                "accuracy": score_of(utility)[1].get("value"),
                "accuracy_drop": drop_of(utility),
                "ratio_upload": utility.get("ratio_upload"),
                "ratio_seconds": utility.get("ratio_seconds"),
                "reason": brief(str(finding.get("reason") or ""))[0],
            }
            metrics = [(n, m) for n, m in table(finding, "metrics").items() if isinstance(m, Mapping)]
            for name, metric in metrics or [("", {})]:
                kept = {key: metric.get(key) for key in (*NUMBERS, "unit", "resolution", "headline")}
                writer.writerow({key: _plain(value) for key, value in {**common, "metric": name, **kept}.items()})
    return stream.getvalue()


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
