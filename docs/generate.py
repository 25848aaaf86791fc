"""Write what the documents repeat from the code: ``python docs/generate.py``.

`docs/plugins.md` is made from the registry, and the tables of `docs/configuration.md` between their markers from the
sections of a configuration. Plugins of other packages are left out, so the pages are the same on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedsec import registry
from fedsec.config import sections
from fedsec.parameters import Parameter, expected_text, schema

DOCS = Path(__file__).resolve().parent
PLUGINS = DOCS / "plugins.md"
CONFIGURATION = DOCS / "configuration.md"

FRAMEWORKS = {
    "nist-ai-100-2e2025": "NIST AI 100-2 E2025",
    "mitre-atlas-5.6": "MITRE ATLAS 5.6",
    "owasp-ml-2023": "OWASP ML Top 10 2023",
}
GROUPS = ("attacks", "defenses", "datasets", "partitions", "models", "judges")
SECTIONS: dict[str, type[BaseModel]] = {
    "root": sections.Root,
    "federation": sections.Federation,
    "splits": sections.Splits,
    "algorithm": sections.Algorithm,
    "server": sections.ServerOptimizer,
    "local": sections.Local,
    "gates": sections.Gate,
    "report": sections.Report,
}

HEAD = """\
# Plugins

Everything that can be named in an `audit.yaml`. This page is made from the code by `python docs/generate.py`;
`fedsec explain NAME` prints the same for one plugin, and for those of other packages too. The units, the bounds and the
defaults are the ones that a configuration is checked against. How to add a plugin: [CONTRIBUTING](../CONTRIBUTING.md).
"""


def plugins_page() -> str:
    """The whole of `docs/plugins.md`."""
    parts = [HEAD]
    for group in GROUPS:
        found = [(name, registry.get(group, name)) for name in registry.names(group)]
        own = [(name, cls) for name, cls in found if cls.__module__.startswith("fedsec.")]
        parts.append(f"## {group.capitalize()}\n")
        parts.append(_table(("name", "family", "what it does"), [_row(group, name, cls) for name, cls in own]))
        if group != "judges":
            parts += [_plugin(group, name, cls) for name, cls in own]
    return "\n".join(parts)


def configuration_page(page: str) -> str:
    """The page with its generated tables made anew.

    Args:
        page: the text of `docs/configuration.md`.

    Raises:
        ValueError: a marker is missing.
    """
    for name, model in SECTIONS.items():
        start, end = f"<!-- keys: {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"docs/configuration.md lacks {start.strip()} or its end")
        page = before + start + _table(("key", "type", "default", "meaning"), _keys(model)) + end + after
    return page


def _keys(model: type[BaseModel]) -> list[tuple[str, ...]]:
    return [
        (f"`{key}`", _type(info), _default(info), info.description or "") for key, info in model.model_fields.items()
    ]


def _type(info: FieldInfo) -> str:
    return expected_text(Annotated[info.annotation, info]).removeprefix("expected ")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if isinstance(info.default, BaseModel):
        return "its defaults"
    return f"`{json.dumps(info.default)}`"


def _row(group: str, name: str, cls: Any) -> tuple[str, ...]:
    shown = f"`{name}`" if group == "judges" else f"[`{name}`](#{_anchor(group, name)})"
    return (shown, str(getattr(cls, "family", "")), cls.summary)


def _anchor(group: str, name: str) -> str:
    return f"{group[:-1]}-{name}"


def _plugin(group: str, name: str, cls: Any) -> str:
    lines = [f"### {group[:-1]} {name}\n", f"{cls.summary}.\n", *_threat(cls), *_guarantee(cls), *_data(cls)]
    lines += [f"- **cost**: {cls.cost}"] if cls.cost else []
    if cls.paper is not None:
        where = f", {cls.paper.where}" if cls.paper.where else ""
        lines.append(f"- **source**: {cls.paper.authors}: {cls.paper.title}. {cls.paper.venue}{where}")
    if cls.taxonomy:
        lines.append("- **taxonomy**: " + "; ".join(_taxonomy(entry) for entry in cls.taxonomy))
    if not lines[-1].endswith("\n"):
        lines.append("")
    lines.append(_parameters(schema(cls)))
    return "\n".join(lines)


def _threat(cls: Any) -> list[str]:
    threat = getattr(cls, "threat", None)
    if threat is None:
        return []
    knows = ", ".join(sorted(threat.knowledge)) or "nothing but what is public"
    wants = [str(topic) for topic in getattr(cls, "wants", ())]
    also = [str(topic) for topic in getattr(cls, "also_sees", ())]
    reads = f"the first of {', '.join(wants)} that it can" if len(wants) > 1 else ", ".join(wants)
    reads += f"; {', '.join(also)} beside" if also else ""
    return [
        f"- **who**: {threat.story.rstrip('.')}",
        f"- **position**: {threat.position}, at {threat.stage}"
        if wants
        else f"- **acts**: as clients, at {threat.stage}",
        *([f"- **reads**: {reads}"] if reads else []),
        f"- **knows**: {knows}",
        f"- **can**: {', '.join(sorted(threat.capabilities))}",
        f"- **takes into account**: {', '.join(sorted(cls.adaptive_to)) or 'no defense'}",
        f"- **measured by**: {cls.judge}",
    ]


def _guarantee(cls: Any) -> list[str]:
    guarantee = getattr(cls, "guarantee", None)
    if guarantee is None:
        return []
    kinds = ", ".join(sorted(str(kind) for kind in cls.accepts))
    return [
        f"- **protects**: {guarantee.protects}",
        f"- **against**: {guarantee.against}",
        f"- **assuming**: {guarantee.assuming}",
        f"- **payloads**: reads {kinds}" + (f", makes {cls.emits}" if cls.emits else ""),
    ]


def _data(cls: Any) -> list[str]:
    info = getattr(cls, "info", None)
    if info is None:
        return []
    attributes = ", ".join(attribute.name for attribute in info.attributes) or "none"
    originals = "shown" if info.public else "withheld"
    return [
        f"- **task**: {info.task}" + (f", {len(info.classes)} classes" if info.classes else ""),
        f"- **input**: {info.modality} {'x'.join(str(size) for size in info.input_shape)}",
        f"- **sensitive attributes**: {attributes}",
        f"- **originals in reports**: {originals}, unless `report.originals` says otherwise",
        *([f"- **data from**: {info.source}"] if info.source else []),
        *([f"- **licence**: {info.licence}"] if info.licence else []),
    ]


def _taxonomy(entry: Any) -> str:
    name = f"{entry.id} {entry.name}".strip() or "no entry"
    return f"{FRAMEWORKS.get(entry.framework, entry.framework)} {name} ({entry.strength})"


def _parameters(parameters: Sequence[Parameter]) -> str:
    if not parameters:
        return "It has no parameters.\n"
    rows = [
        (f"`{p.name}`", p.kind, "required" if p.required else f"`{json.dumps(p.default)}`", p.description)
        for p in parameters
    ]
    return _table(("parameter", "type", "default", "meaning"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in row) + " |" for row in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write both pages."""
    PLUGINS.write_text(plugins_page(), encoding="utf-8")
    CONFIGURATION.write_text(configuration_page(CONFIGURATION.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
