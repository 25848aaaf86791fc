"""The HTML report: one self-contained page without scripts, made from the result file alone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader

from . import (
    breakdown,
    costs,
    exhibits,
    findings,
    format,
    frontier,
    ledger,
    overview,
    passes,
    robustness,
    selftests,
    strongest,
)
from .document import Audit, read, rows, table, texts
from .findings import MOST_CURVES
from .images import Budget
from .severity import CATEGORIES, LETTERS, SEVERITIES, STATUSES

LARGEST_PAGE = 2_000_000
"""Bytes; a page that would be larger is made again with fewer images, and if need be with fewer charts."""
IMAGES = 1_100_000
"""Bytes that images may take before anything is known about the rest of the page."""
LONGEST_CONFIG = 60_000
"""Characters of the resolved configuration on the page; the result file holds all of it."""


def render(document: Mapping[str, Any]) -> str:
    """Render a result file as one HTML page.

    The page has no scripts, asks for nothing outside itself, and is the same byte for byte for the same document.

    Args:
        document: the parsed ``audit.json``.

    Raises:
        DataError: if the document is of another schema.
    """
    audit = read(document)
    page = _page(audit, IMAGES, MOST_CURVES)
    excess = len(page.encode()) - LARGEST_PAGE
    if excess > 0:
        page = _page(audit, max(0, IMAGES - excess - 10_000), MOST_CURVES)
    return page if len(page.encode()) <= LARGEST_PAGE else _page(audit, 0, 1)


def _page(audit: Audit, image_bytes: int, most_curves: int) -> str:
    budget = Budget(image_bytes)
    anchors = overview.Anchors(audit)
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    federation = table(audit.raw, "federation")
    config = json.dumps(audit.raw.get("config") or {}, indent=2, ensure_ascii=False)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            audit=audit,
            raw=audit.raw,
            style=style,
            style_hash=digest,
            anchors=anchors,
            verdict=table(audit.raw, "verdict"),
            gates=rows(table(audit.raw, "verdict"), "gates"),
            coverage=overview.coverage(audit),
            facts=_facts(federation, table(audit.raw, "environment")),
            cards=overview.cards(audit, anchors),
            matrix=overview.matrix(audit, anchors),
            sections=findings.sections(audit, anchors, budget, most_curves),
            frontiers=frontier.frontiers(audit, anchors),
            breakdowns=breakdown.breakdowns(audit, anchors),
            strongest=strongest.strongest(audit, anchors),
            robustness=robustness.robustness(audit, anchors),
            passes=passes.passes(audit, anchors),
            costs=costs.costs(audit, anchors),
            dearest=costs.dearest(audit, anchors),
            oracles=any(texts(entry, "oracles") for entry in audit.attacks.values()),
            doubted=any(c.get("passed") is False for f in audit.findings.values() for c in rows(f, "checks")),
            claims=costs.claims(audit),
            selftests=selftests.selftests(audit),
            gaps=costs.gaps(audit, anchors),
            openings=ledger.openings(audit),
            withheld=exhibits.originals_withheld(audit),
            reconstructions=exhibits.has_reconstructions(audit),
            public=bool(table(federation, "dataset").get("public")),
            images_left_out=budget.refused > 0,
            federation=_flat(federation),
            environment=_flat(table(audit.raw, "environment")),
            config=config[:LONGEST_CONFIG],
            config_cut=len(config) > LONGEST_CONFIG,
            severities=SEVERITIES,
            letters=LETTERS,
            statuses=STATUSES,
            categories=CATEGORIES,
            method_notes=texts(table(audit.raw, "method"), "notes"),
        )
    )


def environment() -> Environment:
    """Every value is foreign text until it is escaped; parts that a document lacks are empty."""
    environment = Environment(
        loader=PackageLoader("fedsec.reports"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "quantity": format.quantity,
        "significant": format.significant,
        "pairs": format.pairs,
        "sentence": format.sentence,
        "among": format.among,
        "slug": lambda text: str(text).replace(" ", "-"),
    }
    return environment


def _facts(federation: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    """What was audited, in a few words each."""
    dataset, model = table(federation, "dataset"), table(federation, "model")
    said = []
    if dataset.get("name"):
        said.append(f"{dataset['name']} ({dataset.get('task') or 'data'})")
    if model.get("name"):
        count = model.get("parameters")
        said.append(str(model["name"]) + (f", {format.significant(count)} parameters" if count is not None else ""))
    if federation.get("clients") is not None:
        each = federation.get("clients_per_round")
        said.append(format.counted(federation["clients"], "client") + (f", {each} a round" if each is not None else ""))
    if federation.get("rounds") is not None:
        said.append(format.counted(federation["rounds"], "round"))
    if federation.get("seeds"):
        said.append(format.counted(len(federation["seeds"]), "seed"))
    if environment.get("seconds") is not None:
        said.append(f"{format.duration(environment['seconds'])} of computing")
    return said


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as ``name, text`` lines."""
    lines: list[tuple[str, str]] = []
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else format.value_text(value)
            lines.append((prefix + str(name), text))
    return lines
