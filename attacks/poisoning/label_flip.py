"""Label flipping: controlled clients train honestly on wrong labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .poisoned_data import PoisonedData, label_count, refuse
from .texts import DATA_POISONING, TARGETED_POISONING, data_threat

Mode = Literal["shift", "reverse", "random"]

_TOLPEGIN = Paper(
    title="Data Poisoning Attacks Against Federated Learning Systems",
    authors="Tolpegin, Truex, Gursoy, Liu",
    venue="ESORICS 2020",
    where="section 3",
)


def flip_labels(y: Tensor, *, classes: int, mode: Mode, generator: torch.Generator) -> Tensor:
    """Wrong labels for right ones, of any shape.

    Args:
        y: int64 labels in ``0..classes - 1``.
        classes: number of classes ``C``, at least 2.
        mode: ``shift`` is ``(y + 1) mod C``; ``reverse`` is ``C - 1 - y``, which for odd ``C`` leaves the middle
            class as it is; ``random`` is uniform over the other classes.
        generator: of ``random``.

    Raises:
        ValueError: fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"labels can be flipped among two or more classes, got {classes}")
    if mode == "reverse":
        return classes - 1 - y
    if mode == "shift":
        return (y + 1) % classes
    offset = torch.randint(1, classes, y.shape, generator=generator, dtype=y.dtype)
    return (y + offset.to(y.device)) % classes


def retarget_labels(y: Tensor, *, source: int, target: int) -> Tensor:
    """``target`` wherever ``y`` is ``source``."""
    return torch.where(y == source, torch.full_like(y, target), y)


@dataclass(frozen=True, kw_only=True)
class LabelFlip(PoisonedData):
    """Flips the labels of all classes."""

    mode: Annotated[
        Mode,
        Field(description="Next class, mirrored class (the middle one of an odd number stays), or any other class"),
    ] = "shift"

    name: ClassVar[str] = "label-flip"
    summary: ClassVar[str] = "Trains the controlled clients on wrong labels of every class"
    family: ClassVar[str] = "data poisoning"
    paper: ClassVar[Paper | None] = _TOLPEGIN
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = DATA_POISONING
    threat: ClassVar[ThreatModel] = data_threat(
        "Some participants train on wrongly labelled data, so that the shared model becomes useless"
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """The shard with flipped labels.

        Raises:
            ConfigurationError: the task has no classes.
        """
        classes = label_count(facts.info, self.name)
        return Examples(
            shard.x, flip_labels(shard.y, classes=classes, mode=self.mode, generator=generator), shard.attributes
        )


@dataclass(frozen=True, kw_only=True)
class TargetedLabelFlip(PoisonedData):
    """Relabels one class as another and leaves the others alone."""

    source: Annotated[int, Field(ge=0, description="Code of the class that shall be misread")] = 1
    target: Annotated[int, Field(ge=0, description="Code of the class that it shall be taken for")] = 0
    only_source: Annotated[
        bool,
        Field(description="Train on the source class alone, repeated to the shard's size, as FoolsGold's attackers do"),
    ] = False

    name: ClassVar[str] = "targeted-label-flip"
    summary: ClassVar[str] = "Trains the controlled clients to take one class for another"
    family: ClassVar[str] = "data poisoning"
    paper: ClassVar[Paper | None] = _TOLPEGIN
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = TARGETED_POISONING
    threat: ClassVar[ThreatModel] = data_threat(
        "Some participants label one class as another, so that the shared model misreads exactly that class"
    )
    judge: ClassVar[str] = "targeted"
    cost: ClassVar[str] = "no more than honest training"

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise ValueError(f"source and target must differ, both are {self.source}")

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """The shard with ``source`` relabelled as ``target``; with ``only_source`` nothing else is left in it.

        A client that holds none of the source class keeps its shard as it is.

        Raises:
            ConfigurationError: the task has no classes, or not these.
        """
        classes = label_count(facts.info, self.name)
        for field in ("source", "target"):
            code = getattr(self, field)
            if code >= classes:
                expected = f"{facts.info.name} has classes 0 to {classes - 1}"
                raise refuse(self.name, field, str(code), expected)
        held = (shard.y == self.source).nonzero().flatten()
        if self.only_source and len(held):
            shard = shard.take(held[torch.randint(len(held), (len(shard),), generator=generator)])
        relabelled = retarget_labels(shard.y, source=self.source, target=self.target)
        return Examples(shard.x, relabelled, shard.attributes)

    def probe(self, test: Examples, info: DatasetInfo) -> Examples | None:
        """The test examples of the source class with the target class for a label."""
        asked = test.take((test.y == self.source).nonzero().flatten())
        return Examples(asked.x, torch.full_like(asked.y, self.target)) if len(asked) else None

    def goal(self) -> Mapping[str, int]:
        """``source`` and ``target``."""
        return {"source": self.source, "target": self.target}
