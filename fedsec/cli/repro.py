"""``fedsec repro``: published beside measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsec.reproductions.catalogue import load, names
from fedsec.reproductions.run import Comparison, Row, run


def listing(*, as_json: bool) -> str:
    """What can be reproduced, one line each."""
    from fedsec.cli.listing import columns

    found = [(name, load(name).recipe) for name in names()]
    if as_json:
        rows = [{"name": n, "title": r.title, "source": r.source, "minutes": r.minutes} for n, r in found]
        return json.dumps(rows, indent=1) + "\n"
    return columns([(name, f"{recipe.minutes:g} min", recipe.title) for name, recipe in found])


def reproduce(name: str, *, output: Path | None, jobs: int | None, progress: str, as_json: bool) -> tuple[str, bool]:
    """Run one; returns what to print and whether every figure lies in its band."""
    chosen = load(name)
    folder = output if output is not None else Path("fedsec-out") / "repro" / chosen.name
    compared = run(chosen, output=folder, jobs=jobs, progress=progress)
    text = json.dumps(document(compared), indent=1) + "\n" if as_json else table(compared)
    return text, compared.holds


def document(compared: Comparison) -> dict[str, Any]:
    """A comparison as JSON."""
    recipe = compared.reproduction.recipe
    return {
        "name": compared.reproduction.name,
        "title": recipe.title,
        "source": recipe.source,
        "setting": recipe.setting,
        "holds": compared.holds,
        "seconds": compared.seconds,
        "figures": [
            {
                **row.figure.model_dump(),
                "measured": row.value,
                "measured_low": row.low,
                "measured_high": row.high,
                "holds": row.holds,
                "reason": row.reason,
            }
            for row in compared.rows
        ],
    }


def table(compared: Comparison) -> str:
    """A comparison for people: published, band, measured, verdict."""
    from fedsec.cli.listing import columns

    recipe = compared.reproduction.recipe
    lines: list[tuple[str, ...]] = [("figure", "published", "band", "measured", "")]
    lines += [_line(row) for row in compared.rows]
    good = sum(row.holds for row in compared.rows)
    notes = _notes(compared.rows)
    parts = [
        f"{recipe.title}\n{recipe.source}\n{recipe.setting}\n\n",
        columns(lines),
        "\n" + "\n".join(notes) + "\n" if notes else "",
        f"\n{good} of {len(compared.rows)} figures in their bands, {compared.seconds:.0f} s.\n",
    ]
    return "".join(parts)


def _notes(rows: Sequence[Row]) -> list[str]:
    """Where each figure comes from; what is said of several is said once."""
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(_remark(row), []).append(row.figure.name)
    alone = len(said) == 1
    return [f"  {text}" if alone else f"  {', '.join(names)}: {text}" for text, names in said.items() if text]


def _line(row: Row) -> tuple[str, ...]:
    figure = row.figure
    published = "-" if figure.published is None else f"{figure.published:.4g}"
    measured = "not measured" if row.value is None else f"{row.value:.4g}"
    if row.low is not None and row.high is not None:
        measured += f" ({row.low:.4g} to {row.high:.4g})"
    name = f"{figure.name} [{figure.unit}]" if figure.unit not in ("", "share") else figure.name
    return name, published, f"{figure.low:.4g} to {figure.high:.4g}", measured, "ok" if row.holds else "OUTSIDE"


def _remark(row: Row) -> str:
    return "; ".join(text for text in (row.figure.source, row.figure.note, row.reason) if text)
