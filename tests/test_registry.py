from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from fedsec import registry
from fedsec.errors import PluginError

THIRD_PARTY = """
from dataclasses import dataclass
from typing import Annotated, ClassVar
from pydantic import Field
from fedsec.protocol.stage import Defense, Guarantee

@dataclass(frozen=True, kw_only=True)
class Halve(Defense):
    name: ClassVar[str] = "halve"
    summary: ClassVar[str] = "Halves each update"
    family: ClassVar[str] = "example"
    guarantee: ClassVar[Guarantee] = Guarantee("nothing", "nobody", "nothing")
    factor: Annotated[float, Field(gt=0, description="factor")] = 0.5

class Stranger:
    name = "stranger"
"""


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Adds entry points of other distributions, whose module lies in a folder of the path."""
    (tmp_path / "halving_plugin.py").write_text(THIRD_PARTY)
    (tmp_path / "broken_plugin.py").write_text("import a_library_that_is_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = registry._all_points()

    def add(*points: tuple[str, str, str, str]) -> None:
        class Point(EntryPoint):
            dist = None

        made = []
        for name, value, group, distribution in points:
            point = Point(name, value, f"fedsec.{group}")
            vars(point)["dist"] = SimpleNamespace(name=distribution)
            made.append(point)
        monkeypatch.setattr(registry, "_all_points", lambda: (*found, *made))
        registry.declaration.cache_clear()

    yield add
    registry.declaration.cache_clear()


def row(group: str, name: str) -> registry.Row:
    return next(row for row in registry.rows(group) if row.name == name)


def test_unknown_name_is_refused_with_the_nearest_and_all() -> None:
    with pytest.raises(PluginError, match=r"there is no defense 'kurm'. Did you mean 'krum'\? Available: .*clip"):
        registry.get("defenses", "kurm")


def test_unknown_group_is_refused() -> None:
    with pytest.raises(PluginError, match="there is no group of plugins 'atacks'"):
        registry.names("atacks")


def test_a_name_of_another_kind_is_hinted_at() -> None:
    with pytest.raises(PluginError, match="It may be a name of another kind"):
        registry.get("judges", "ckks")


def test_third_party_plugin_is_listed_and_loaded(install) -> None:
    install(("halve", "halving_plugin:Halve", "defenses", "halving"))
    assert row("defenses", "halve") == registry.Row("halve", "Halves each update", "example", "halving")
    assert registry.get("defenses", "halve")(factor=0.1).factor == 0.1


def test_broken_plugin_is_a_row_and_an_error_only_if_used(install) -> None:
    install(("broken", "broken_plugin:Broken", "defenses", "broken-dist"))
    assert "a_library_that_is_not_installed" in row("defenses", "broken").error
    assert not row("defenses", "krum").error
    with pytest.raises(PluginError, match="cannot be imported: ModuleNotFoundError"):
        registry.get("defenses", "broken")


def test_wrong_base_class_is_refused(install) -> None:
    install(("stranger", "halving_plugin:Stranger", "defenses", "halving"))
    with pytest.raises(PluginError, match=r"does not derive from fedsec\.protocol\.stage\.Defense"):
        registry.get("defenses", "stranger")
    assert "does not derive" in row("defenses", "stranger").error


def test_plugin_of_another_group_is_refused(install) -> None:
    install(("halve", "halving_plugin:Halve", "attacks", "halving"))
    with pytest.raises(PluginError, match="does not derive from"):
        registry.get("attacks", "halve")


def test_two_distributions_with_one_name_collide_even_with_fedsec(install) -> None:
    install(("krum", "halving_plugin:Halve", "defenses", "halving"))
    assert "brought by fedsec, halving" in row("defenses", "krum").error
    with pytest.raises(PluginError, match="uninstall all but one"):
        registry.get("defenses", "krum")
    with pytest.raises(PluginError, match="uninstall all but one"):
        registry.declaration("defenses", "krum")


def test_nested_search_respects_the_base() -> None:
    group, found = registry.nested("label-flip", registry.BASES["attacks"][1])
    assert (group, found.name) == ("attacks", "label-flip")
    with pytest.raises(PluginError, match=r"there is no Adversary 'dlg'.*label-flip"):
        registry.nested("dlg", registry.BASES["attacks"][1])


def test_listing_and_declarations_need_no_torch() -> None:
    code = """
    import sys
    from fedsec import registry
    for group in registry.GROUPS:
        assert not [row for row in registry.rows(group) if row.error]
        for name in registry.names(group):
            registry.declaration(group, name)
    assert not {"torch", "numpy", "sklearn"} & set(sys.modules), "heavy"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
