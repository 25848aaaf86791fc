"""When two result files say the same: everything but when, where and how fast."""

from __future__ import annotations

from typing import Any

ASIDE = {"created", "environment", "ratio_seconds"}
"""Left out wherever they stand, as is every key that starts with ``seconds``."""
LABELS = ("attack", "stack", "seed", "label", "secret")
"""What names a row; rows are compared in the order of these names, not in that of the file."""


def timeless(value: Any, *, ordered: bool = True) -> Any:
    """A result file without what differs between two runs of the same audit.

    Left out: ``created`` (when), ``environment`` (where, with how many jobs), and what is called ``seconds...`` or
    ``ratio_seconds`` (how fast). Everything else must be equal to the last bit: keys, metrics and their intervals,
    galleries, curves, reasons.

    Args:
        value: the document, or a part of it.
        ordered: keep the order of rows; otherwise lists of named rows are sorted by their names, for audits whose
            files list the same attacks in another order.
    """
    if isinstance(value, dict):
        return {
            key: timeless(item, ordered=ordered)
            for key, item in value.items()
            if key not in ASIDE and not key.startswith("seconds")
        }
    if isinstance(value, list):
        items = [timeless(item, ordered=ordered) for item in value]
        if not ordered and items and all(isinstance(item, dict) for item in items):
            items.sort(key=lambda item: [str(item.get(name, "")) for name in LABELS])
        return items
    return value


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two values differ, one line each: what an assertion shows."""
    if isinstance(first, dict) and isinstance(second, dict):
        found = [f"{path}: only one has {key!r}" for key in sorted(first.keys() ^ second.keys())]
        for key in sorted(first.keys() & second.keys()):
            found += differences(first[key], second[key], f"{path}.{key}")
        return found
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            line
            for number, (one, other) in enumerate(zip(first, second, strict=True))
            for line in differences(one, other, f"{path}[{number}]")
        ]
    return [] if first == second else [f"{path}: {first!r:.80} and {second!r:.80}"]


def assert_same(first: dict[str, Any], second: dict[str, Any], *, ordered: bool = True) -> None:
    """Two result files say the same (see `timeless`)."""
    found = differences(timeless(first, ordered=ordered), timeless(second, ordered=ordered))
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])
