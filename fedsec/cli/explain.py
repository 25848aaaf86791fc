"""``fedsec explain``: everything that a plugin says about itself, as text."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

from fedsec import registry
from fedsec.errors import PluginError
from fedsec.parameters import Parameter, schema
from fedsec.registry import GROUPS, closest, names

EXIT_CODES = """\
Exit codes of `fedsec audit`, `fedsec plan` and `fedsec report`

    0  every gate is met and every cell has a result
    1  a gate is violated (whatever else happened)
    2  usage: the command line, the configuration, or a stack that cannot work
    3  incomplete: a cell failed or was not run, so nothing may be called safe
  130  interrupted; the same command resumes
"""

SEVERITY = """\
Severity, from an adversary's advantage

  advantage = (measured - floor) / (full success - floor), in [0, 1]

  The floor is the best adversary without the view, measured in the same audit: a guess, a mean image, the honest
  run. The band is put on the upper end of the 95 % interval, because an attack that was measured badly must not
  look harmless. A category is as bad as its worst cell; there is no overall grade.

{bands}

  An attack that fails says something about a defense only if it succeeded on `none` in the same audit.
"""

_FRAMEWORKS = {
    "nist-ai-100-2e2025": "NIST AI 100-2 E2025",
    "mitre-atlas-5.6": "MITRE ATLAS 5.6",
    "owasp-ml-2023": "OWASP ML Top 10 2023",
}
_SECTIONS = {"attacks": "attacks", "defenses": "defenses"}
_KEYS = {"datasets": "dataset", "partitions": "partition", "models": "model"}


def explanation(name: str, group: str | None = None) -> str:
    """What there is to say about a plugin, ``exit-codes`` or ``severity``.

    Args:
        name: of the plugin or topic.
        group: where to look; by default everywhere.

    Raises:
        PluginError: there is no such plugin, or it cannot be imported.
    """
    if group is None and name == "exit-codes":
        return EXIT_CODES
    if group is None and name == "severity":
        return _severity()
    groups = [g for g in ([group] if group else GROUPS) if name in names(g)]
    if not groups:
        every = sorted({"exit-codes", "severity"}.union(*(names(g) for g in ([group] if group else GROUPS))))
        hint = closest(name, every) or "`fedsec list` shows every name."
        raise PluginError(f"there is nothing called {name!r}. {hint}")
    return "\n".join(_plugin(found, name) for found in groups)


def _severity() -> str:
    from fedsec.statistics.severity import BANDS

    return SEVERITY.format(bands="\n".join(f"  {band:<9} from {lowest:g}" for band, lowest in BANDS))


def _plugin(group: str, name: str) -> str:
    found = registry.get(group, name)
    if not isinstance(found, type):
        summary = (found.__doc__ or "").strip().split("\n")[0]
        return f"{name}  (a form of report)\n{summary}\n"
    family = getattr(found, "family", "")
    parts = [f"{name}  ({group[:-1]}{', ' + family if family else ''})\n{getattr(found, 'summary', '')}.\n"]
    parts += [_threat(found), _guarantee(found), _data(found)]
    if group != "judges":
        parts.append(_parameters(schema(found)))
    parts += [_source(found), _taxonomy(found), _cost(found)]
    if group in _SECTIONS or group in _KEYS:
        parts.append(_example(group, name, schema(found)))
    return "\n".join(part for part in parts if part)


def _threat(found: Any) -> str:
    threat = getattr(found, "threat", None)
    if threat is None:
        return ""
    lines = [("who", threat.story), ("position", f"{threat.position} ({threat.stage})")]
    lines.append(("knows", ", ".join(sorted(threat.knowledge)) or "nothing but what is public"))
    lines.append(("can", ", ".join(sorted(threat.capabilities))))
    if wants := getattr(found, "wants", ()):
        lines.append(("reads", "the first of these that it can: " + ", ".join(str(topic) for topic in wants)))
    lines.append(("adapts to", ", ".join(sorted(found.adaptive_to)) or "no defense"))
    lines.append(("measured by", _judge(found.judge)))
    return _block("Threat model", lines)


def _judge(name: str) -> str:
    try:
        return f"{name}: {registry.declaration('judges', name).summary}"
    except PluginError as error:
        return f"{name}: {error}"


def _guarantee(found: Any) -> str:
    guarantee = getattr(found, "guarantee", None)
    if guarantee is None:
        return ""
    kinds = ", ".join(sorted(str(kind) for kind in found.accepts))
    lines = [("protects", guarantee.protects), ("against", guarantee.against), ("assuming", guarantee.assuming)]
    lines.append(("payloads", f"reads {kinds}" + (f", makes {found.emits}" if found.emits else "")))
    return _block("Guarantee", lines)


def _data(found: Any) -> str:
    info = getattr(found, "info", None)
    if info is None:
        return ""
    classes = f"{len(info.classes)} classes" if info.classes else "no classes"
    shown = "may be shown in a report" if info.public else "are redacted in reports"
    lines = [
        ("task", f"{info.task}, {classes}"),
        ("input", f"{info.modality} {'x'.join(str(size) for size in info.input_shape)}"),
        ("attributes", ", ".join(attribute.name for attribute in info.attributes) or "none"),
        ("originals", shown),
        ("source", info.source),
        ("licence", info.licence),
    ]
    return _block("Data", [(key, text) for key, text in lines if text])


def _parameters(parameters: list[Parameter]) -> str:
    if not parameters:
        return "Parameters\n  none\n"
    width = _width()
    lines = ["Parameters"]
    for parameter in parameters:
        default = "required" if parameter.required else f"default {json.dumps(parameter.default)}"
        lines.append(f"  {parameter.name}: {parameter.kind}, {default}")
        lines += textwrap.wrap(parameter.description, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"


def _source(found: Any) -> str:
    paper = getattr(found, "paper", None)
    if paper is None:
        return ""
    where = f", {paper.where}" if paper.where else ""
    return _block("Source", [("", f"{paper.authors}: {paper.title}. {paper.venue}{where}")])


def _taxonomy(found: Any) -> str:
    entries = getattr(found, "taxonomy", ())
    lines = [
        ("", f"{_FRAMEWORKS.get(e.framework, e.framework)}: {f'{e.id} {e.name}'.strip() or 'no entry'} ({e.strength})")
        for e in entries
    ]
    return _block("Taxonomy", lines) if lines else ""


def _cost(found: Any) -> str:
    cost = getattr(found, "cost", "")
    return _block("Cost", [("", cost)]) if cost else ""


def example(group: str, name: str, parameters: Iterable[Parameter]) -> str:
    """YAML of a plugin as it would stand in a configuration, with a few of its parameters."""
    shown = [p for p in parameters if p.required or p.default is not None][:3]
    given = "".join(f", {p.name}: {json.dumps(None if p.required else p.default)}" for p in shown)
    entry = f"{{name: {name}{given}}}" if given else name
    if group in _SECTIONS:
        return f"{_SECTIONS[group]}:\n  - {entry}\n"
    return f"federation:\n  {_KEYS[group]}: {entry}\n"


def _example(group: str, name: str, parameters: list[Parameter]) -> str:
    return "Example\n" + textwrap.indent(example(group, name, parameters), "  ")


def _block(title: str, lines: Iterable[tuple[str, str]]) -> str:
    text = [title]
    for key, value in lines:
        head = f"  {key}: " if key else "  "
        text += textwrap.wrap(f"{head}{value}", _width(), subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join(text) + "\n"


def _width() -> int:
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 100))
