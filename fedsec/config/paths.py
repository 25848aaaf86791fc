"""Paths into a configuration: ``attacks[1].restarts`` as text and as keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

Key = str | int
Path = tuple[Key, ...]

_WHOLE = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[\d{1,6}\])*")
_STEP = re.compile(r"[^.\[\]]+")


def written(path: Sequence[Key]) -> str:
    """The path as text: ``("attacks", 1, "restarts")`` is ``attacks[1].restarts``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else (f".{key}" if text else key)
    return text


def parsed(text: str) -> Path | None:
    """The keys of a path; a list's index may also follow a dot. ``None`` if it is no path."""
    if not _WHOLE.fullmatch(text):
        return None
    first, *rest = _STEP.findall(text)
    return (first, *(int(key) if key.isascii() and key.isdigit() and len(key) <= 6 else key for key in rest))


def covers(outer: str, inner: str) -> bool:
    """Whether one written path is the other or lies around it."""
    return not outer or inner == outer or inner.startswith((f"{outer}.", f"{outer}["))
