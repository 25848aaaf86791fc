"""Write what the documents repeat from the code: ``python docs/generate.py``.

`docs/plugins.md` is made from the registry, `docs/stacks.md` from what defenses declare, and the tables of
`docs/configuration.md` between their markers from the sections of a configuration. Plugins of other packages are left
out, so the pages are the same on every machine.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedsec import registry
from fedsec.config import sections
from fedsec.models.flat import Layout, Slot
from fedsec.parameters import Parameter, expected_text, schema
from fedsec.protocol.compose import check_stack
from fedsec.protocol.pairs import Pair, pairs_of
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, Setting

DOCS = Path(__file__).resolve().parent
PLUGINS = DOCS / "plugins.md"
CONFIGURATION = DOCS / "configuration.md"
STACKS = DOCS / "stacks.md"

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

STACKS_HEAD = """\
# Which defenses stand together

Made by `python docs/generate.py` from what defenses declare: each pair, with its default parameters, is folded through
`seal`, arrival, `aggregate` and `open` as a stack is before anything trains. The federation has 100 clients, of whom 20
take part in a round by {sampling} sampling, and a small dense classifier on images. A pair is not refused here for what
one of the two alone is refused for. `fedsec plan CONFIG` tells the same of a whole stack, with its own parameters.

Columns are the defenses that hide: updates are sealed or masked, or noise is added. **yes**: in any order; **before**
or **after**: where the defense of the row must stand; **no**: refused, for the reason further down. A star marks what
cannot stand alone here.
"""
SYMBOLS = {"any": "yes", "first": "before", "second": "after", "refused": "**no**"}
SETTING = Setting(
    population=100,
    cohort=20.0,
    rounds=10,
    sampling="poisson",
    layout=Layout(
        (
            Slot("1.weight", (16, 64), 0, 1024, True),
            Slot("1.bias", (16,), 1024, 16, True),
            Slot("3.weight", (10, 16), 1040, 160, True),
            Slot("3.bias", (10,), 1200, 10, True),
        )
    ),
    local_steps=4,
    batch_size=16,
    has_batch_norm=False,
    task="classification",
    bounds=(0.0, 1.0),
    stack=(),
    public=500,
    input_shape=(1, 8, 8),
)


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


def stacks_page() -> str:
    """The whole of `docs/stacks.md`."""
    found = {name: registry.get("defenses", name) for name in registry.names("defenses")}
    own = {n: cls for n, cls in found.items() if cls.__module__.startswith("fedsec.") and cls.name == n}
    defenses: dict[str, Defense] = {name: cls() for name, cls in own.items()}
    hiding = [name for name, defense in defenses.items() if _hides(defense)]
    pairs = {frozenset((pair.first, pair.second)): pair for pair in pairs_of(defenses, SETTING)}
    rows = [
        [f"`{name}`", *(SYMBOLS[pairs[frozenset((name, c))].order(name)] if c != name else "" for c in hiding)]
        for name in sorted(defenses, key=lambda n: (found[n].family, n))
    ]
    parts = [STACKS_HEAD.format(sampling=SETTING.sampling)]
    alone = {name: check_stack((d,), replace(SETTING, stack=(name,))) for name, d in defenses.items()}
    parts.append(_table(("", *(f"`{name}`" + ("*" if alone[name] else "") for name in hiding)), rows))
    lonely = [f"- `{name}`: {r.found.partition(': ')[2]}; {r.instead}" for name, rs in alone.items() for r in rs]
    parts.append("## What cannot stand alone here\n\n" + "\n".join(lonely) + "\n")
    parts.append("## Why pairs are refused\n")
    reasons: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs.values():
        if not pair.works:
            name = pair.first if pair.first in hiding else pair.second
            reasons[_reason(pair, name)][name].append(pair.other(name))
    for (why, instead), by_name in reasons.items():
        parts.append(f"**{why[0].upper()}{why[1:]}.** Instead: {instead}.\n")
        if sum(map(len, by_name.values())) > 40 and not any(name in hiding for name in by_name):
            names = sorted({*by_name, *(other for others in by_name.values() for other in others)})
            parts.append(f"- any two of {_codes(names)}\n")
            continue
        parts.append("\n".join(f"- `{name}` with {_codes(sorted(others))}" for name, others in by_name.items()) + "\n")
    return "\n".join(parts)


def _hides(defense: Defense) -> bool:
    return defense.perturbs or defense.emits not in (None, Kind.PLAIN) or "epsilon" in defense.claims(SETTING)


def _reason(pair: Pair, name: str) -> tuple[str, str]:
    """Why it cannot work and what would, with the partner's name left open so that equal reasons fall together."""
    refusal = pair.forward[0]
    why = refusal.why if refusal.why != "it cannot work in this federation" else refusal.found.partition(": ")[2]

    def opened(text: str) -> str:
        for known, word in ((pair.other(name), "the other"), (name, "the first")):
            text = re.sub(rf"(?<!an ){re.escape(known)}", word, text)
        return text

    return opened(why), opened(refusal.instead)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> None:
    """Write the pages."""
    STACKS.write_text(stacks_page(), encoding="utf-8")
    PLUGINS.write_text(plugins_page(), encoding="utf-8")
    CONFIGURATION.write_text(configuration_page(CONFIGURATION.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
