"""``fedsec check-defense``: the known answers of one defense, as a table or as JSON."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from fedsec import registry
from fedsec.errors import ConfigurationError, PluginError, Problem
from fedsec.parameters import validate
from fedsec.protocol.stage import Defense
from fedsec.selftests.run import SelfTests, check_defense


def checked(name: str, *, parameters: list[str], as_json: bool, every: bool) -> tuple[str, bool]:
    """What to print, and whether every known answer that applies came out.

    Args:
        name: of a registered defense, ``module:Class``, or ``path/to/file.py:Class``.
        parameters: ``name=value`` each, the value as in a configuration.
        as_json: the whole document instead of a table.
        every: list the tests that do not apply too.

    Raises:
        PluginError: there is no such defense.
        ConfigurationError: a parameter is wrong.
    """
    found = check_defense(built(name, parameters))
    text = json.dumps(found.document(), indent=1) + "\n" if as_json else table(found, every=every)
    return text, found.holds


def built(name: str, parameters: list[str]) -> Defense:
    """The defense with these parameters; arguments and errors as for `checked`."""
    cls = located(name)
    given: dict[str, Any] = {}
    for text in parameters:
        key, equals, value = text.partition("=")
        if not equals:
            expected = "name=value"
            raise ConfigurationError([Problem(path="--with", found=text, expected=expected)])
        given[key.strip()] = yaml.safe_load(value)
    made, problems = validate(cls, given, name)
    if problems:
        raise ConfigurationError(problems)
    if not isinstance(made, Defense):
        raise PluginError(f"{name} is no defense: it does not derive from fedsec.protocol.stage.Defense")
    return made


def located(name: str) -> type:
    """The class behind a name; see `checked`."""
    if ":" not in name:
        found = registry.get("defenses", name)
    else:
        from fedsec.data.user import load_object

        module, _, attribute = name.rpartition(":")
        path = Path(module)
        if path.suffix == ".py":
            if not path.is_file():
                raise PluginError(f"there is no file {module}")
            found = load_object(f"{path.stem}:{attribute}", base=path.resolve().parent)
        else:
            found = load_object(name, base=Path.cwd())
    if not (isinstance(found, type) and issubclass(found, Defense)):
        raise PluginError(f"{name} is no defense: it does not derive from fedsec.protocol.stage.Defense")
    return found


def table(found: SelfTests, *, every: bool = False) -> str:
    """The results as text.

    Args:
        found: what the tests gave.
        every: with the tests that do not apply, and why.
    """
    from rich.console import Console
    from rich.table import Table

    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=sys.stdout.isatty(), highlight=False)
    shown = Table(title=f"Known answers of {found.defense}", title_justify="left", show_lines=False)
    for heading in ("test", "outcome", "found", "expected"):
        shown.add_column(heading, overflow="fold", no_wrap=heading in {"test", "outcome"})
    styles = {"holds": "green", "fails": "bold red", "does not apply": "dim"}
    for result in found.results:
        if result.outcome != "does not apply" or every:
            style = styles[result.outcome]
            shown.add_row(result.test, result.outcome, result.found, result.expected, style=style)
    console.print(shown)
    applied = [result for result in found.results if result.outcome != "does not apply"]
    for reason in found.alone:
        console.print(f"Alone it is refused, so put it in a stack: {reason}", markup=False)
    if found.failed:
        console.print(f"{len(found.failed)} of {len(applied)} fail: {', '.join(found.failed)}", markup=False)
    elif applied:
        console.print(f"all {len(applied)} that apply hold; {len(found.results) - len(applied)} do not apply")
    else:
        console.print("no known answer applies: nothing was shown")
    return buffer.getvalue()
