"""The names of measurements that a judge makes, so that a gate on a misspelt one is refused before anything trains."""

from __future__ import annotations

import ast
from functools import cache

from fedsec import registry
from fedsec.errors import PluginError
from fedsec.source_text import Unreadable, path_of

SEVERITY = "severity"


@cache
def metrics_of(judge: str) -> frozenset[str] | None:
    """Names of the measurements of a judge; ``None`` if only running it would tell.

    A judge may list them in a class attribute ``metrics``; of fedsec's own judges they are read from the calls of
    ``Measurement`` in their source.
    """
    try:
        module = registry.module_of("judges", judge)
        if module.split(".")[0] != "fedsec":
            listed = getattr(registry.get("judges", judge), "metrics", None)
            return None if listed is None else frozenset(listed)
        return _named_in(module, frozenset())
    except (PluginError, Unreadable):
        return None


def _named_in(module: str, seen: frozenset[str]) -> frozenset[str] | None:
    try:
        tree = ast.parse(path_of(module).read_bytes())
    except (OSError, SyntaxError) as error:
        raise Unreadable(str(error)) from error
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Measurement":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            name = given.get("name")
            if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
                return None
            names.add(name.value)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedsec.judges."):
            imported = node.module or ""
            if imported == "fedsec.judges.base" or imported in seen:
                continue
            further = _named_in(imported, seen | {module})
            if further is None:
                return None
            names.update(further)
    return frozenset(names)
