from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from fedsec import registry
from fedsec.declaration import class_fields
from fedsec.errors import ConfigurationError, PluginError, Problem
from fedsec.parameters import json_schema, rebuild, schema, validate
from fedsec.plugin import Plugin
from fedsec.protocol.parties import Adversary


class Mode(StrEnum):
    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True, kw_only=True)
class Sample(Plugin):
    name: ClassVar[str] = "sample"

    count: Annotated[int, Field(ge=1, le=9, description="how many")]
    rate: Annotated[float, Field(gt=0, description="per round")] = 0.5
    limit: Annotated[float | None, Field(ge=0, description="null for none")] = None
    on: Annotated[bool, Field(description="whether")] = False
    kind: Annotated[Literal["mean", "median"], Field(description="which")] = "mean"
    mode: Annotated[Mode, Field(description="how")] = Mode.FAST
    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(description="of the layers")] = (1, 2)
    text: Annotated[str, Field(description="words")] = ""
    copy: Annotated[int, Field(description="shadows an attribute of pydantic's models")] = 0

    def __post_init__(self) -> None:
        if self.rate > 100:
            raise ValueError("a rate above 100 makes no sense; use at most 100")
        if self.text == "both":
            raise ConfigurationError([Problem(path="text", found="both", expected="one of them")])


@dataclass(frozen=True, kw_only=True)
class Carrier(Plugin):
    name: ClassVar[str] = "carrier"

    carries: Annotated[Adversary, Field(description="what it carries")] = field(
        default_factory=lambda: rebuild("attacks", {"name": "label-flip"})
    )


def problems_of(cls=Sample, **raw) -> dict[str, Problem]:
    built, problems = validate(cls, raw, "at[0]")
    assert built is None
    return {problem.path: problem for problem in problems}


def test_schema_in_words() -> None:
    found = {p.name: p for p in schema(Sample)}
    assert found["count"].required
    assert found["count"].expected == "expected integer >= 1, <= 9"
    assert found["limit"].expected == "expected number >= 0 or null"
    assert found["kind"].type == "one of mean | median"
    assert found["mode"].type == "one of fast | slow"
    assert found["sizes"].type == "list of integer >= 1"
    assert found["sizes"].default == (1, 2)
    assert found["rate"].description == "per round"


def test_json_schema_holds_bounds_and_defaults() -> None:
    found = json_schema(class_fields(Sample))
    assert found["required"] == ["count"]
    assert found["properties"]["count"] == {
        "description": "how many", "maximum": 9, "minimum": 1, "type": "integer"
    }  # fmt: skip
    assert found["properties"]["sizes"]["default"] == [1, 2]


def test_valid_parameters_build_the_object() -> None:
    built, problems = validate(Sample, {"count": 3, "rate": 2, "sizes": [4], "mode": "slow", "copy": 1}, "")
    assert problems == []
    assert built == Sample(count=3, rate=2.0, sizes=(4,), mode=Mode.SLOW, copy=1)
    assert isinstance(built.rate, float)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", True), ("count", "3"), ("count", 3.0), ("count", 0), ("count", 10), ("count", None),
        ("rate", True), ("rate", "1"), ("rate", 0), ("rate", float("nan")), ("rate", float("inf")),
        ("on", 1), ("on", "yes"), ("kind", "mode"), ("mode", "FAST"), ("sizes", 3), ("sizes", [0]), ("sizes", ["1"]),
        ("text", 1), ("text", None), ("limit", -1), ("limit", "none"),
    ],
)  # fmt: skip
def test_nothing_is_converted_but_integers_to_numbers(name: str, value: object) -> None:
    found = problems_of(**{"count": 1, name: value})
    assert list(found) == [f"at[0].{name}"]
    assert found[f"at[0].{name}"].expected.startswith("expected ")


def test_every_problem_is_reported_at_once_with_suggestions() -> None:
    found = problems_of(rate=-1, kind="medain", sizs=[1], text=3)
    assert set(found) == {"at[0].count", "at[0].rate", "at[0].kind", "at[0].sizs", "at[0].text"}
    assert found["at[0].kind"].hint == "Did you mean 'median'?"
    assert found["at[0].sizs"].hint == "Did you mean 'sizes'?"
    assert "required" in found["at[0].count"].expected


def test_what_a_plugin_refuses_itself_is_a_problem() -> None:
    assert problems_of(count=1, rate=1000)["at[0]"].expected == "a rate above 100 makes no sense; use at most 100"
    assert problems_of(count=1, text="both")["at[0].text"].expected == "one of them"


def test_nested_plugins_are_built_from_names_and_mappings() -> None:
    flip = registry.get("attacks", "label-flip")
    for raw in ("label-flip", {"name": "label-flip", "fraction": 0.4}):
        built, problems = validate(Carrier, {"carries": raw}, "")
        assert problems == []
        assert isinstance(built.carries, flip)
    assert built.carries.fraction == 0.4
    assert built.spec()["carries"]["fraction"] == 0.4


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ("labl-flip", "at[0].carries", "Did you mean 'label-flip'?"),
        ({"name": "dlg"}, "at[0].carries.name", "there is no Adversary 'dlg'"),
        ({"name": "label-flip", "fractoin": 1}, "at[0].carries.fractoin", "Did you mean 'fraction'?"),
        ({"name": "label-flip", "fraction": "many"}, "at[0].carries.fraction", "expected number"),
        ({"fraction": 1}, "at[0].carries", "expected the name"),
        (3, "at[0].carries", "expected the name"),
    ],
)
def test_nested_problems_have_their_own_path(raw: object, path: str, words: str) -> None:
    found = problems_of(Carrier, carries=raw)
    assert list(found) == [path]
    assert words in str(found[path])


def test_rebuild_refuses_what_it_cannot_rebuild() -> None:
    with pytest.raises(PluginError):
        rebuild("attacks", {"name": "nothing"})
    with pytest.raises(ConfigurationError, match="unknown parameter"):
        rebuild("attacks", {"name": "label-flip", "nothing": 1})


scalars = st.none() | st.booleans() | st.integers(-5, 15) | st.floats() | st.sampled_from(["mean", "fast", "x"])
raw_values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=3), scalars, max_size=2)


@given(st.dictionaries(st.sampled_from([*Sample.__dataclass_fields__, "other"]), raw_values, max_size=5))
@settings(deadline=None, max_examples=200)
def test_anything_gives_either_an_object_or_problems(raw: dict[str, object]) -> None:
    built, problems = validate(Sample, raw, "")
    assert (built is None) == bool(problems)
    if built is not None:
        again, none = validate(Sample, dataclasses.asdict(built) | {"mode": str(built.mode)}, "")
        assert none == []
        assert again == built
