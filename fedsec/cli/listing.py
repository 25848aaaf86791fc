"""``fedsec list``: every plugin in a line, broken ones with the reason."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence

from fedsec.registry import GROUPS, Row, rows


def listing(group: str | None, *, as_json: bool) -> str:
    """The plugins of one group, or of all.

    Args:
        group: one of `GROUPS`, or ``None``.
        as_json: a mapping from group to rows instead of text.
    """
    found = {name: rows(name) for name in ([group] if group else GROUPS)}
    if as_json:
        return (
            json.dumps({name: [dataclasses.asdict(row) for row in of] for name, of in found.items()}, indent=1) + "\n"
        )
    parts = []
    for name, of in found.items():
        head = "" if group else f"{name} ({len(of)})\n"
        indent = "" if group else "  "
        parts.append(head + columns([_cells(row) for row in of], indent=indent))
    text = "\n".join(parts)
    return text if group else text + "\n`fedsec explain NAME` says more about one of them.\n"


def _cells(row: Row) -> tuple[str, ...]:
    # Where a plugin comes from matters only if it is not fedsec itself.
    origin = "" if row.distribution == "fedsec" else f" [{row.distribution}]"
    said = f"! cannot be used: {row.error}" if row.error else row.summary
    return (row.name, row.family, said + origin)


def columns(table: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows as aligned text, the last column cut at the width of the terminal; whole where there is none."""
    if not table:
        return f"{indent}(none)\n"
    count = len(table[0])
    used = [i for i in range(count - 1) if any(row[i] for row in table)]
    widths = {i: max(len(row[i]) for row in table) for i in used}
    limit = shutil.get_terminal_size((10_000, 24)).columns if sys.stdout.isatty() else 10_000
    lines = []
    for row in table:
        line = indent + "".join(f"{row[i]:<{widths[i]}}  " for i in used) + " ".join(row[-1].split())
        lines.append(line if len(line) <= limit or row[-1].startswith("!") else line[: limit - 1] + "…")
    return "\n".join(line.rstrip() for line in lines) + "\n"
