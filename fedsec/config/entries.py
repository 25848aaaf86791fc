"""The plugins that a configuration names, checked against what they declare, before anything is imported."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ValidationError

from fedsec import registry
from fedsec.config.draft import MISSING, Draft
from fedsec.config.sections import Splits
from fedsec.declaration import ADVERSARY, Declaration
from fedsec.errors import PluginError
from fedsec.parameters import check, expected_text, shown
from fedsec.registry import closest

ATTACK_KEYS = ("label", "position")
RESERVED = ("name", "label", "position", "stack", "load", "build", *Splits.model_fields)
"""Keys with a meaning of their own beside a plugin's parameters; no parameter may be called so."""

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass
class PluginDraft:
    """A plugin as the configuration has it.

    Attributes:
        group: of the registry.
        name: of the plugin, or ``module:function`` of a user's own.
        parameters: raw.
        path: where it stands.
        declared: what it declares; ``None`` for a user's own, or if there is none.
        own: the key (``load`` or ``build``) that names a user's own function; empty for a plugin.
    """

    group: str
    name: str
    parameters: dict[str, Any]
    path: str
    declared: Declaration | None = None
    own: str = ""


@dataclass
class AttackDraft:
    """An attack as the configuration has it; ``position`` is empty if none is given."""

    plugin: PluginDraft
    label: str
    position: str

    @property
    def is_active(self) -> bool:
        """Whether it takes the place of parties."""
        return self.plugin.declared is not None and ADVERSARY in self.plugin.declared.bases


@dataclass
class StackDraft:
    """A stack as the configuration has it."""

    plugins: list[PluginDraft]
    label: str
    path: str


@dataclass
class Entries:
    """Every plugin of a configuration."""

    dataset: PluginDraft | None = None
    partition: PluginDraft | None = None
    model: PluginDraft | None = None
    attacks: list[AttackDraft] = field(default_factory=list)
    stacks: list[StackDraft] = field(default_factory=list)


def read_entries(draft: Draft) -> Entries:
    """Every plugin that the draft names, with what is wrong with it reported."""
    entries = Entries()
    entries.dataset = _source(draft, "datasets", "federation.dataset", "load", tuple(Splits.model_fields))
    entries.partition = _source(draft, "partitions", "federation.partition", "", (), default="shuffle")
    entries.model = _source(draft, "models", "federation.model", "build", ())
    attacks = draft.at("attacks")
    for index, raw in enumerate(attacks if isinstance(attacks, list) else ()):
        entries.attacks.append(_attack(draft, raw, f"attacks[{index}]"))
    stacks = draft.given("defenses", ["none"])
    for index, raw in enumerate(stacks if isinstance(stacks, list) else ()):
        entries.stacks.append(_stack(draft, raw, f"defenses[{index}]"))
    _label_attacks(draft, entries.attacks)
    _label_stacks(draft, entries.stacks)
    return entries


def _source(
    draft: Draft, group: str, path: str, own: str, common: tuple[str, ...], default: str = ""
) -> PluginDraft | None:
    raw = draft.at(path)
    if raw is MISSING and default and isinstance(draft.at("federation"), dict):
        raw = default
    if raw is MISSING or not draft.sound(path):
        return None
    if own and isinstance(raw, dict) and own in raw:
        return _own(draft, group, path, own, common, raw)
    return _plugin(draft, group, raw, path, common)


def _own(
    draft: Draft, group: str, path: str, own: str, common: tuple[str, ...], raw: dict[str, Any]
) -> PluginDraft | None:
    if "name" in raw:
        draft.report(f"{path}.name", f"`name` and `{own}` cannot stand together", hint="Keep one of them")
    if not isinstance(raw[own], str) or not _TARGET.fullmatch(raw[own]):
        hint = f"For the function {own} in my_code.py beside this file: my_code:{own}"
        draft.report(f"{path}.{own}", "expected module:function", found=shown(raw[own]), hint=hint)
        return None
    rest = {key: value for key, value in raw.items() if key not in {own, "name", *common}}
    return PluginDraft(group, raw[own], rest, path, own=own)


def _plugin(draft: Draft, group: str, raw: Any, path: str, common: Iterable[str]) -> PluginDraft:
    """A named plugin; the draft learns what is wrong with its name and its parameters."""
    kind = group[:-1]
    if isinstance(raw, dict) and "name" not in raw:
        named = closest("name", raw)
        draft.report(path, f"expected the name of the {kind}", found=shown(raw), hint=named and "Write it as `name`")
        return PluginDraft(group, "", {}, path)
    name = raw.get("name") if isinstance(raw, dict) else raw
    where = f"{path}.name" if isinstance(raw, dict) else path
    if not isinstance(name, str):
        draft.report(where, f"expected the name of a {kind}, or a mapping with it", found=shown(name))
        return PluginDraft(group, "", {}, path)
    skipped = {"name", *common}
    rest = {key: value for key, value in raw.items() if key not in skipped} if isinstance(raw, dict) else {}
    found = PluginDraft(group, name, rest, path)
    try:
        found.declared = registry.declaration(group, name)
    except PluginError as error:
        draft.report(where, str(error))
        return found
    draft.add(check(found.declared, rest, path))
    return found


def check_splits(draft: Draft) -> None:
    """Report split sizes that cannot be."""
    raw = draft.at("federation.dataset")
    given = {key: raw[key] for key in Splits.model_fields if key in raw} if isinstance(raw, dict) else {}
    try:
        Splits.model_validate(given)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            name = str(item["loc"][0])
            info = Splits.model_fields[name]
            expected = expected_text(Annotated[info.annotation, info])
            draft.report(f"federation.dataset.{name}", expected, found=shown(given[name]))


def _attack(draft: Draft, raw: Any, path: str) -> AttackDraft:
    plugin = _plugin(draft, "attacks", raw, path, ATTACK_KEYS)
    found = AttackDraft(plugin, plugin.name, "")
    if not isinstance(raw, dict):
        return found
    if "position" in raw:
        if isinstance(raw["position"], str) and raw["position"]:
            found.position = raw["position"]
        else:
            draft.report(f"{path}.position", "expected text such as server or client:0", found=shown(raw["position"]))
    if "label" in raw:
        found.label = _label(draft, raw["label"], f"{path}.label")
    elif found.position and not (plugin.declared and _is_default(plugin.declared, found.position)):
        found.label = f"{plugin.name}@{found.position}"
    return found


def _is_default(declared: Declaration, position: str) -> bool:
    return declared.threat is not None and declared.threat.position == position


def _label(draft: Draft, raw: Any, path: str) -> str:
    if isinstance(raw, str) and raw.strip() == raw and raw not in {"", "*"} and len(raw) <= 80 and raw.isprintable():
        return raw
    draft.report(path, "expected a label: text of at most 80 characters, and not *", found=shown(raw))
    return ""


def _stack(draft: Draft, raw: Any, path: str) -> StackDraft:
    label, items = "", [(raw, path)]
    if isinstance(raw, list):
        items = [(item, f"{path}[{index}]") for index, item in enumerate(raw)]
    elif isinstance(raw, dict) and "stack" in raw:
        for key in raw.keys() - {"stack", "label"}:
            hint = closest(key, ("stack", "label")) or "Parameters belong to a defense in the stack"
            draft.report(f"{path}.{key}", "unknown key", hint=hint)
        inner = raw["stack"]
        if not isinstance(inner, list):
            draft.report(f"{path}.stack", "expected a list of defenses", found=shown(inner))
        items = [(item, f"{path}.stack[{i}]") for i, item in enumerate(inner if isinstance(inner, list) else ())]
    elif raw == "none" or (isinstance(raw, dict) and raw.get("name") == "none"):
        items = []
    if isinstance(raw, dict) and "label" in raw:
        label = _label(draft, raw["label"], f"{path}.label")
    plugins = []
    for item, where in items:
        if item == "none":
            draft.report(where, "`none` is the empty stack and cannot stand among defenses", hint="Leave it out")
            continue
        common = ("label",) if where == path else ()
        plugins.append(_plugin(draft, "defenses", item, where, common))
    return StackDraft(plugins, label, path)


def _label_attacks(draft: Draft, attacks: list[AttackDraft]) -> None:
    first: dict[str, str] = {}
    for attack in attacks:
        if attack.label in first:
            hint = "Give each a `label` of its own"
            draft.report(attack.plugin.path, f"{first[attack.label]} has the label {attack.label!r} too", hint=hint)
        elif attack.label:
            first[attack.label] = attack.plugin.path


def _label_stacks(draft: Draft, stacks: list[StackDraft]) -> None:
    """Give labels to the stacks that have none, numbered where they repeat, and add ``none`` if it is missing."""
    counts: Counter[str] = Counter()
    for stack in stacks:
        if not stack.label:
            label = "+".join(plugin.name for plugin in stack.plugins) or "none"
            counts[label] += 1
            stack.label = label if counts[label] == 1 else f"{label}#{counts[label]}"
    if all(stack.plugins for stack in stacks):
        stacks.insert(0, StackDraft([], "none", "defenses"))
    first: dict[str, str] = {}
    empty = ""
    for stack in stacks:
        if stack.label in first:
            hint = "Give each a `label` of its own"
            draft.report(stack.path, f"{first[stack.label]} has the label {stack.label!r} too", hint=hint)
        elif not stack.plugins and empty:
            draft.report(stack.path, f"{empty} is the empty stack already", hint="Leave one of them out")
        first.setdefault(stack.label, stack.path)
        empty = empty if stack.plugins else empty or stack.path


__all__ = ["RESERVED", "AttackDraft", "Entries", "PluginDraft", "StackDraft", "check_splits", "read_entries"]
