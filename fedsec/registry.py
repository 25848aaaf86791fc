"""Where plugins are found: entry points ``fedsec.<group>``, imported only when used.

fedsec's own plugins stand under the same entry points as anybody else's. Listing reads their metadata from their
source, so that it needs no torch; a third party's plugin is imported to be listed, and one that cannot be imported
is a row with the reason, and an error only if used.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedsec.declaration import ADVERSARY, ATTACK, DEFENSE, Declaration, class_key, read_class, read_source
from fedsec.errors import PluginError
from fedsec.source_text import Unreadable

GROUPS = ("attacks", "defenses", "datasets", "partitions", "models", "judges", "reports")
BASES = {
    "attacks": (ATTACK, ADVERSARY),
    "defenses": (DEFENSE,),
    "datasets": ("fedsec.data.source:DatasetSource",),
    "partitions": ("fedsec.data.source:Partition",),
    "models": ("fedsec.models.source:ModelSource",),
    "judges": ("fedsec.judges.base:Judge",),
    "reports": (),
}
"""What a plugin of each group derives from; reports are functions."""

NESTED_GROUPS = ("attacks", "defenses", "models")
"""Where the plugins that other plugins carry are looked up, in this order."""


@dataclass(frozen=True)
class Row:
    """One line of a listing.

    Attributes:
        name: of the plugin.
        summary: one sentence.
        family: its family, or empty.
        distribution: the installed package that brings it.
        error: why it cannot be used, or empty.
    """

    name: str
    summary: str
    family: str
    distribution: str
    error: str = ""


def _points(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    if group not in GROUPS:
        raise PluginError(f"there is no group of plugins {group!r}; there are {', '.join(GROUPS)}")
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in _all_points():
        if point.group == f"fedsec.{group}":
            found[point.name] = (*found.get(point.name, ()), point)
    return dict(sorted(found.items()))


@cache
def _all_points() -> tuple[EntryPoint, ...]:
    return tuple(point for group in GROUPS for point in entry_points(group=f"fedsec.{group}"))


def names(group: str) -> tuple[str, ...]:
    """Names of a group's plugins, sorted."""
    return tuple(_points(group))


def closest(word: object, choices: Iterable[str]) -> str:
    """``Did you mean 'krum'?`` if one of the choices is near, else an empty string."""
    near = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""


def _point(group: str, name: str) -> EntryPoint:
    points = _points(group)
    found = points.get(name, ())
    kind = group[:-1]
    if not found:
        hint = closest(name, points) or ("It may be a name of another kind." if _elsewhere(group, name) else "")
        available = ", ".join(points) or "none"
        raise PluginError(" ".join(filter(None, (f"there is no {kind} {name!r}.", hint, f"Available: {available}"))))
    if len(found) > 1:
        owners = ", ".join(sorted(_distribution(point) for point in found))
        raise PluginError(f"the {kind} {name!r} is brought by {owners}; uninstall all but one of them")
    return found[0]


def _elsewhere(group: str, name: str) -> bool:
    return any(name in _points(other) for other in GROUPS if other != group)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def _is_own(point: EntryPoint) -> bool:
    return point.module.split(".")[0] == "fedsec"


def module_of(group: str, name: str) -> str:
    """The module that a plugin lives in.

    Raises:
        PluginError: there is none of that name, or two packages bring it.
    """
    return _point(group, name).module


def get(group: str, name: str) -> Any:
    """The class of a plugin (the function of a report), imported.

    Raises:
        PluginError: there is none of that name, two packages bring it, it cannot be imported, or it is not what
            the group holds.
    """
    point = _point(group, name)
    try:
        found = point.load()
    except Exception as error:  # whatever a foreign module raises, its user learns which plugin it was
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"the {group[:-1]} {name!r} ({point.value}) cannot be imported: {reason}") from error
    _check_base(group, name, point, found)
    return found


def _check_base(group: str, name: str, point: EntryPoint, found: Any) -> None:
    expected = BASES[group]
    if not expected:
        if not callable(found):
            raise PluginError(f"the report {name!r} ({point.value}) is no function")
        return
    keys = {class_key(base) for base in found.__mro__} if isinstance(found, type) else set()
    if not keys.intersection(expected):
        wanted = " or ".join(key.replace(":", ".") for key in expected)
        raise PluginError(f"the {group[:-1]} {name!r} ({point.value}) does not derive from {wanted}")


@cache
def declaration(group: str, name: str) -> Declaration:
    """What a plugin declares; of fedsec's own without importing it.

    Raises:
        PluginError: as `get`.
    """
    point = _point(group, name)
    if _is_own(point):
        try:
            return read_source(point.module, point.attr)
        except Unreadable:
            pass  # said in a form that only an import tells
    found = get(group, name)
    if not isinstance(found, type):
        return Declaration(name, (found.__doc__ or "").split("\n")[0].rstrip("."), "", (), ())
    return read_class(found)


def nested(name: str, base: str) -> tuple[str, Declaration]:
    """The group and declaration of a plugin that another one carries.

    Args:
        name: of the carried plugin.
        base: key of the class that it must derive from.

    Raises:
        PluginError: no attack or defense of that name derives from it.
    """
    suitable = []
    for group in NESTED_GROUPS:
        for candidate in _points(group):
            if candidate == name:
                found = declaration(group, name)
                if base in found.bases:
                    return group, found
    for group in NESTED_GROUPS:
        for candidate in _points(group):
            try:
                if base in declaration(group, candidate).bases:
                    suitable.append(candidate)
            except PluginError:
                continue
    kind = base.split(":")[1]
    hint = closest(name, suitable)
    available = ", ".join(suitable) or "none"
    raise PluginError(" ".join(filter(None, (f"there is no {kind} {name!r}.", hint, f"Available: {available}"))))


def rows(group: str) -> list[Row]:
    """The listing of a group, one row per plugin, broken ones with the reason."""
    return [_row(group, name, points) for name, points in _points(group).items()]


def _row(group: str, name: str, points: tuple[EntryPoint, ...]) -> Row:
    owners = ", ".join(sorted(_distribution(point) for point in points))
    if len(points) > 1:
        return Row(name, "", "", owners, f"brought by {owners}; uninstall all but one of them")
    point = points[0]
    try:
        if _is_own(point):
            try:
                found = read_source(point.module, point.attr, with_fields=False)
            except Unreadable:
                found = declaration(group, name)
        else:
            found = declaration(group, name)
    except PluginError as error:
        return Row(name, "", "", owners, str(error))
    return Row(name, found.summary, found.family, owners)


__all__ = ["BASES", "GROUPS", "Row", "closest", "declaration", "get", "module_of", "names", "nested", "rows"]
