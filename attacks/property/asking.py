"""Which properties an attack is about, and the public examples that it learns them from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsec.data.examples import Examples
from fedsec.data.properties import Property, resolve
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable

from .shadows import Pools


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Parameters that name properties."""

    property: Annotated[
        str,
        Field(description="attribute, attribute=value, attribute=value|value or attribute!=value; empty: the first"),
    ] = ""
    properties: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(max_length=5, description="several properties to read at once, written like `property`"),
    ] = ()
    match_labels: Annotated[
        bool,
        Field(description="whether simulated shards have equal classes on both sides, so that labels tell nothing"),
    ] = True

    def asked(self, facts: PublicFacts) -> tuple[Property, ...]:
        """The properties.

        Raises:
            NotApplicable: the dataset, or what is public of it, has no such property; says which there are.
        """
        texts = [text for text in (self.property, *self.properties) if text]
        try:
            asked = resolve(texts, facts.info)
        except ValueError as error:
            raise NotApplicable(str(error)) from error
        for one in asked:
            if one.attribute not in facts.auxiliary.attributes:
                raise NotApplicable(
                    f"the public examples of {facts.info.name} do not tell the attribute {one.attribute!r}"
                )
        return asked

    def pools(self, facts: PublicFacts, auxiliary: Examples) -> Pools:
        """The public examples, sorted.

        Raises:
            NotApplicable: they have too little of either kind, or no such property.
        """
        by_class = self.match_labels and facts.info.task == "classification" and auxiliary.y.dim() == 1
        return Pools.of(auxiliary, self.asked(facts), by_class=by_class, matched=self.match_labels)
