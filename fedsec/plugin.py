"""A plugin is a small frozen dataclass around a pure function; its fields are its parameters.

The signature is the schema: ``{name, **parameters}`` in a configuration is checked against the dataclass
fields, whose types are ``Annotated[type, pydantic.Field(ge=..., description=...)]``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from fedsec.threat import Paper, Taxonomy


class Plugin:
    """What every attack and defense says about itself; subclasses are ``@dataclass(frozen=True, kw_only=True)``.

    Attributes:
        name: as typed in a configuration, ``kebab-case``.
        summary: one sentence, without a full stop, of what it does.
        family: the family it is reported under.
        paper: the source.
        taxonomy: identifiers with the strength of the match; attacks have at least one per framework.
        cost: what it costs, in a few words.
        revision: counts changes that alter results; part of every cache key.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[Paper | None] = None
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = ()
    cost: ClassVar[str] = ""
    revision: ClassVar[int] = 1

    def parameters(self) -> Mapping[str, Any]:
        """The parameters of this instance, as JSON-able values."""
        own: Any = self
        if not dataclasses.is_dataclass(own):
            return {}
        return {field.name: _plain(getattr(own, field.name)) for field in dataclasses.fields(own)}

    def spec(self) -> dict[str, Any]:
        """``{name, **parameters}``: what rebuilds this object."""
        return {"name": self.name, **self.parameters()}


def _plain(value: Any) -> Any:
    if isinstance(value, Plugin):
        return value.spec()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
