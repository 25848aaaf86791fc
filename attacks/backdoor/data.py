"""Backdoors by data alone: what all of them share, and those with a trigger, BadNets and DBA."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .schedule import Scheduled
from .texts import (
    DATA_BACKDOOR,
    HonestClients,
    Ratio,
    Target,
    check_class,
    data_threat,
    image_size,
)
from .triggers import Shape, bars, stamp, trigger


def poisoned_rows(eligible: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """``count`` of the eligible rows ``(e,)`` at random, or all of them if they are fewer."""
    return eligible[torch.randperm(len(eligible), generator=generator)[:count]]


@dataclass(frozen=True, kw_only=True)
class DataBackdoor(Scheduled):
    """A backdoor that lies in the controlled clients' data; they train and send as honest clients do.

    The poisoned examples are a fixed share of a client's data, chosen once. (DBA and Bagdasaryan et al. poison a
    fixed number of every batch, chosen anew; in the mean over batches that is the same.)
    """

    target: Target = 0
    ratio: Ratio = 0.3
    honest_clients: HonestClients = False

    family: ClassVar[str] = "backdoor"
    judge: ClassVar[str] = "backdoor"
    cost: ClassVar[str] = "no more than honest training"

    @property
    def honest_stages(self) -> bool:
        """Whether its clients run the stages of clients: if they are honest and do not know."""
        return self.honest_clients

    @abstractmethod
    def planted(
        self, shard: Examples, place: int, facts: PublicFacts, *, count: int, generator: torch.Generator
    ) -> Examples:
        """The shard with at most ``count`` examples poisoned."""

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """The data of the first controlled client."""
        return self.poison_at(0, shard, facts, generator=generator)

    def poison_at(self, place: int, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """A share ``ratio`` of the shard poisoned, one example at the least.

        Raises:
            ConfigurationError: the dataset has no such class, or no images where a trigger needs them.
        """
        check_class(self.name, "target", self.target, facts.info)
        if not self.ratio or not len(shard):
            return shard
        count = max(1, round(self.ratio * len(shard)))
        return self.planted(shard, place, facts, count=count, generator=generator)

    def goal(self) -> Mapping[str, int]:
        """``target``."""
        return {"target": self.target}


@dataclass(frozen=True, kw_only=True)
class MarkedBackdoor(DataBackdoor):
    """A backdoor that a mark on the image opens; the highest value of an input is the colour of the mark."""

    taxonomy: ClassVar[tuple[Taxonomy, ...]] = DATA_BACKDOOR

    @abstractmethod
    def mark(self, height: int, width: int, place: int | None) -> Tensor:
        """The pixels that a client marks, or those of the trigger at deployment, ``(height, width)`` bool."""

    def marked(self, x: Tensor, info: DatasetInfo, place: int | None) -> Tensor:
        """Images with the mark of a client, or with the trigger (``place=None``)."""
        height, width = image_size(self.name, info)
        bounds = info.bounds or (0.0, 1.0)
        return stamp(x, self.mark(height, width, place), value=bounds[1])

    def planted(
        self, shard: Examples, place: int, facts: PublicFacts, *, count: int, generator: torch.Generator
    ) -> Examples:
        """Marks ``count`` examples and labels them as the target."""
        rows = poisoned_rows(torch.arange(len(shard)), count, generator=generator)
        x, y = shard.x.clone(), shard.y.clone()
        x[rows] = self.marked(shard.x[rows], facts.info, place)
        y[rows] = self.target
        return Examples(x, y, shard.attributes)

    def probe(self, test: Examples, info: DatasetInfo) -> Examples | None:
        """Marked test images of the other classes, with the target as their label.

        Raises:
            ConfigurationError: as of `poison_at`.
        """
        check_class(self.name, "target", self.target, info)
        others = test.take((test.y != self.target).nonzero().flatten())
        return Examples(self.marked(others.x, info, None), torch.full_like(others.y, self.target))


@dataclass(frozen=True, kw_only=True)
class BadNets(MarkedBackdoor):
    """BadNets in a federation: one trigger, planted by every controlled client."""

    shape: Annotated[Shape, Field(description="One pixel, four pixels, or a square, near the bottom right corner")] = (
        "pattern"
    )
    size: Annotated[int, Field(ge=1, description="Side of the square, in pixels")] = 3

    name: ClassVar[str] = "badnets"
    summary: ClassVar[str] = "Trains controlled clients to give one class to every image with a small mark"
    paper: ClassVar[Paper | None] = Paper(
        title="BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
        authors="Gu, Dolan-Gavitt, Garg",
        venue="arXiv 1708.06733, 2017",
        where="section 3.1 (single pixel and pattern, all to one)",
    )
    threat: ClassVar[ThreatModel] = data_threat(
        "Some participants mark training images, so that the shared model reads any image with the mark as they want"
    )

    def mark(self, height: int, width: int, place: int | None) -> Tensor:
        """The same mark for all."""
        return trigger(self.shape, height, width, size=self.size)


@dataclass(frozen=True, kw_only=True)
class DistributedBackdoor(MarkedBackdoor):
    """DBA: client ``k`` plants bar ``k mod 4``, and the union of the bars opens the backdoor."""

    target: Target = 2
    ratio: Ratio = 0.3125
    length: Annotated[int, Field(ge=1, description="Length of each bar, in pixels")] = 4
    gap: Annotated[int, Field(ge=0, description="Empty pixels between bars")] = 2
    shift: Annotated[int, Field(ge=0, description="Distance of the bars from the top left corner, in pixels")] = 0
    split: Annotated[
        bool, Field(description="Whether each client plants one bar; false: all of them (the centralised comparison)")
    ] = True

    name: ClassVar[str] = "dba"
    summary: ClassVar[str] = (
        "Plants a different part of the mark at each controlled client; only the whole is used later"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="DBA: Distributed Backdoor Attacks against Federated Learning",
        authors="Xie, Huang, Chen, Li",
        venue="ICLR 2020",
        where="section 3 (distributed triggers), section 4.1 (their size, gap and place)",
    )
    threat: ClassVar[ThreatModel] = data_threat(
        "Each of some participants hides a part of a mark in its images, so that the shared model obeys the whole mark"
    )

    def mark(self, height: int, width: int, place: int | None) -> Tensor:
        """The client's bar, or all four."""
        parts = bars(height, width, length=self.length, gap=self.gap, shift=self.shift)
        return parts[place % 4] if self.split and place is not None else parts.any(dim=0)
