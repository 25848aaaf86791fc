"""Biased data: true examples, chosen so that a group is missing or all that there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .poisoned_data import PoisonedData, label_count, refuse
from .texts import DATA_POISONING, data_threat


def reweighed(member: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Rows of a data set of the same size of which ``share`` are members of a group.

    Rows are repeated as little as possible: a group that has to shrink loses random rows, one that has to grow keeps
    its rows and repeats random ones.

    Args:
        member: ``(n,)`` bool, whether each example belongs to the group.
        share: in [0, 1]; of ``n`` examples ``round(share n)`` are members afterwards.
        generator: of all draws.

    Returns:
        ``(n,)`` int64 rows in random order; all rows as they are where one side is empty and would have to fill
        the other's place.

    Raises:
        ValueError: a share outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must be in [0, 1], got {share}")
    n = len(member)
    inside, outside = member.nonzero().flatten(), (~member).nonzero().flatten()
    wanted = round(share * n)
    if (wanted and not len(inside)) or (n - wanted and not len(outside)):
        return torch.arange(n)
    rows = torch.cat([_taken(inside, wanted, generator), _taken(outside, n - wanted, generator)])
    return rows[torch.randperm(n, generator=generator)]


def _taken(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the rows: whole copies of all of them, and a random part of one more."""
    if count == 0:
        return rows[:0]
    whole, rest = divmod(count, len(rows))
    return torch.cat([rows.repeat(whole), rows[torch.randperm(len(rows), generator=generator)[:rest]]])


@dataclass(frozen=True, kw_only=True)
class BiasedData(PoisonedData):
    """Chooses which of its own true examples to train on; nothing that it trains on is wrong.

    The source samples against a fairness measure of a target model; here the group and its share are given. A client
    that holds the group alone, or nothing of it where it should grow, keeps its shard.
    """

    attribute: Annotated[
        str, Field(description="Attribute whose value makes the group; empty for a group that is a class")
    ] = ""
    value: Annotated[int, Field(ge=0, description="Code of the class or of the attribute's value")] = 0
    share: Annotated[
        float, Field(ge=0.0, le=1.0, description="Share of the group in the shard: 0 leaves it out, 1 leaves only it")
    ] = 0.0

    name: ClassVar[str] = "biased-data"
    summary: ClassVar[str] = "Trains the controlled clients on true examples of which a group is left out or repeated"
    family: ClassVar[str] = "data poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="On Adversarial Bias and the Robustness of Fair Machine Learning",
        authors="Chang, Nguyen, Murakonda, Kazemi, Shokri",
        venue="arXiv 2006.08669",
        where="adversarial sampling",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = DATA_POISONING
    threat: ClassVar[ThreatModel] = data_threat(
        "Some participants train on a choice of their true data, so that the shared model serves one group badly"
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """The shard, resampled to its size.

        Raises:
            ConfigurationError: there is no such attribute or class, or the task has no classes.
        """
        return shard.take(reweighed(self._members(shard, facts), share=self.share, generator=generator))

    def _members(self, shard: Examples, facts: PublicFacts) -> Tensor:
        info = facts.info
        if not self.attribute:
            if info.task == "next-token":
                expected = "a group of sequences is an attribute's"
                raise refuse(self.name, "attribute", "none", expected, "Name an attribute.")
            classes = label_count(info, self.name)
            if self.value >= classes:
                raise refuse(self.name, "value", str(self.value), f"{info.name} has classes 0 to {classes - 1}")
            return shard.y == self.value
        known = {attribute.name: attribute for attribute in info.attributes}
        if self.attribute not in known:
            there = f"{info.name} has the attributes {', '.join(sorted(known)) or '(none)'}"
            raise refuse(self.name, "attribute", self.attribute, there)
        values = len(known[self.attribute].values)
        if self.value >= values:
            raise refuse(self.name, "value", str(self.value), f"{self.attribute} has values 0 to {values - 1}")
        return shard.attributes[self.attribute] == self.value
