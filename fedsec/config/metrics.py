"""Which measurements a judge can make, so that a gate on a misspelt one is refused before anything trains."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache

from fedsec import registry
from fedsec.errors import PluginError
from fedsec.source_text import Unreadable, path_of

SEVERITY = "severity"
UTILITIES = ("accuracy", "accuracy_drop")
"""Metrics of a stack, whatever the attack."""

_BASE = "fedsec.judges.base"


@dataclass(frozen=True)
class Metrics:
    """Names of measurements.

    Attributes:
        names: those that are known.
        patterns: of names that only running the judge would tell.
    """

    names: frozenset[str]
    patterns: frozenset[str] = frozenset()

    def may_have(self, name: str) -> bool:
        """Whether a measurement can have this name."""
        return name in self.names or any(re.fullmatch(pattern, name) for pattern in self.patterns)


@cache
def metrics_of(judge: str) -> Metrics:
    """What a judge can measure.

    A judge lists it in a class attribute ``metrics``; without one, anything may be asked of a third party's. In the
    source of fedsec's own judges without one the names of the calls of ``Measurement`` are read, and where one is
    computed, every text in the module may be it: what stands nowhere in the source cannot be measured.
    """
    anything = Metrics(frozenset(), frozenset({".*"}))
    try:
        module = registry.module_of("judges", judge)
        if module.split(".")[0] == "fedsec":
            return _read(module)
        listed = getattr(registry.get("judges", judge), "metrics", None)
    except (PluginError, Unreadable):
        return anything
    return anything if listed is None else Metrics(frozenset(listed))


@cache
def _read(module: str) -> Metrics:
    try:
        tree = ast.parse(path_of(module).read_bytes())
    except (OSError, SyntaxError) as error:
        raise Unreadable(str(error)) from error
    listed = _listed(tree)
    if listed:
        return Metrics(listed)
    names: set[str] = set()
    patterns: set[str] = set()
    is_computed = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Measurement":
            name = next((keyword.value for keyword in node.keywords if keyword.arg == "name"), None)
            if isinstance(name, ast.Constant):
                names.add(str(name.value))
            elif isinstance(name, ast.JoinedStr):
                patterns.add(_pattern(name))
            else:
                is_computed = True
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedsec.judges."):
            if node.module in {_BASE, module}:
                continue
            further = _read(node.module or "")
            names |= further.names
            patterns |= further.patterns
    if is_computed:
        texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        patterns |= {re.escape(text) for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z]\w*", text)}
        patterns |= {
            _pattern(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) and " " not in _pattern(node)
        }
    return Metrics(frozenset(names), frozenset(patterns))


def _listed(tree: ast.Module) -> frozenset[str]:
    """What a judge lists in its class attribute ``metrics``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "metrics" and node.value is not None:
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def _pattern(text: ast.JoinedStr) -> str:
    return "".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else "[^ ]+" for p in text.values)
