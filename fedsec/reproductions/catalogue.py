"""Named reproductions: a set-up, the published figures, and the band in which a right implementation must land."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedsec.config.yaml_lines import read_yaml
from fedsec.errors import ConfigurationError, FedsecError, Problem

SUFFIX = ".yaml"


class Figure(BaseModel):
    """One number of a source, and where to find it in what was measured."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(min_length=1, description="what it is")]
    read: Annotated[
        str, Field(min_length=1, description="`ATTACK | STACK | METRIC` of an audit, or a key of `measure`")
    ]
    published: Annotated[float | int | None, Field(description="the figure in the source; null if it gives none")] = (
        None
    )
    low: Annotated[float | int, Field(description="lower end of the band")]
    high: Annotated[float | int, Field(description="upper end of the band")]
    unit: Annotated[str, Field(description="of the figure")] = "share"
    source: Annotated[str, Field(min_length=1, description="where it stands, or what the band rests on")]
    note: Annotated[str, Field(description="why the band is as wide as it is")] = ""

    @model_validator(mode="after")
    def _ordered(self) -> Figure:
        if not self.low <= self.high:
            raise ValueError(f"the band of {self.name!r} runs from {self.low} to {self.high}; low may not exceed high")
        return self


class Recipe(BaseModel):
    """A reproduction as its file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    setting: Annotated[str, Field(min_length=1)]
    minutes: Annotated[float | int, Field(gt=0, description="on 2 cores")]
    audit: Annotated[dict[str, Any] | None, Field(description="an ordinary audit configuration")] = None
    measure: Annotated[str | None, Field(pattern=r"^[\w.]+:\w+$", description="module:function")] = None
    figures: Annotated[list[Figure], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_way(self) -> Recipe:
        if (self.audit is None) == (self.measure is None):
            raise ValueError("give either `audit`, a configuration, or `measure`, a module:function")
        return self


@dataclass(frozen=True)
class Reproduction:
    """A recipe under its name.

    Attributes:
        name: as typed.
        recipe: what to run and what to compare.
    """

    name: str
    recipe: Recipe


def names() -> list[str]:
    """The reproductions that fedsec ships."""
    return sorted(f.name.removesuffix(SUFFIX) for f in _folder().iterdir() if f.name.endswith(SUFFIX))


def load(name: str) -> Reproduction:
    """A shipped reproduction by name, or one of the user's own by the path of its file.

    Raises:
        FedsecError: there is no such reproduction.
        ConfigurationError: its file is wrong, with every problem at once.
    """
    if name.endswith(SUFFIX):
        path = Path(name)
        if not path.is_file():
            raise FedsecError(f"{name} is no file; `fedsec repro --list` lists what is shipped")
        return Reproduction(path.stem, _recipe(path.read_bytes(), name))
    if name not in names():
        import difflib

        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise FedsecError(f"there is no reproduction {name!r}{hint} `fedsec repro --list` lists all")
    file = _folder().joinpath(name + SUFFIX)
    return Reproduction(name, _recipe(file.read_bytes(), f"{name}{SUFFIX}"))


def _folder() -> Any:
    return resources.files("fedsec.reproductions")


def _recipe(data: bytes, file: str) -> Recipe:
    document = read_yaml(data, file)
    if document.problems:
        raise ConfigurationError(document.problems)
    if not isinstance(document.value, Mapping):
        raise ConfigurationError([Problem(path="", found="", expected="expected a mapping", file=file)])
    try:
        return Recipe.model_validate(document.value)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"]).lstrip(".")
            found = "" if isinstance(item["input"], dict) else repr(item["input"])[:60]
            problems.append(Problem(path=path, found=found, expected=item["msg"], file=file, line=document.line(path)))
        raise ConfigurationError(problems) from error
