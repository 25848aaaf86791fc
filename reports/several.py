"""One page over several audits of one file: their verdicts side by side, each with a link to its own report."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import quote

from fedsec.errors import DataError

from .document import Audit, read, rows, table
from .html import environment
from .overview import Anchors, Card, cards, coverage

SCHEMA = "fedsec/audits/1"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One audit of several."""

    title: str
    address: str
    verdict: Mapping[str, Any]
    coverage: list[tuple[str, int]]
    cards: tuple[Card, ...]
    audit: Audit


def render(document: Mapping[str, Any]) -> str:
    """Render an overview of several audits as one HTML page without scripts.

    Args:
        document: ``{"schema": "fedsec/audits/1", "audits": [{"folder": ..., "document": an audit.json}]}``.

    Raises:
        DataError: if the document is of another schema.
    """
    if document.get("schema") != SCHEMA:
        raise DataError(f"an overview is made of a {SCHEMA!r} document and found {document.get('schema')!r}")
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    entries = [_entry(row) for row in rows(document, "audits")]
    return environment().get_template("several.html.j2").render(entries=entries, style=style, style_hash=digest)


def _entry(row: Mapping[str, Any]) -> Entry:
    audit = read(table(row, "document"))
    raw = audit.raw
    return Entry(
        title=str(raw.get("title") or raw.get("name") or "Audit"),
        address=quote(f"{row.get('folder')}/report.html"),
        verdict=table(raw, "verdict"),
        coverage=coverage(audit),
        cards=tuple(card for card in cards(audit, Anchors(audit)) if card.undefended is not None),
        audit=audit,
    )
