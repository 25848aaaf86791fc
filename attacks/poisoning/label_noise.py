"""Label noise: a share of the labels is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .label_flip import flip_labels
from .poisoned_data import PoisonedData, label_count
from .texts import DATA_POISONING, data_threat

Kind = Literal["symmetric", "pair"]


def noisy_labels(y: Tensor, *, classes: int, rate: float, kind: Kind, generator: torch.Generator) -> Tensor:
    """Labels of which each is wrong with probability ``rate``, independently.

    Args:
        y: int64 labels in ``0..classes - 1``, of any shape.
        classes: number of classes, at least 2.
        rate: in [0, 1].
        kind: ``symmetric`` puts any other class in its place, ``pair`` the next one.
        generator: of all draws.

    Raises:
        ValueError: fewer than two classes, or a rate outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    mode: Literal["random", "shift"] = "random" if kind == "symmetric" else "shift"
    wrong = flip_labels(y, classes=classes, mode=mode, generator=generator)
    chosen = torch.rand(y.shape, generator=generator).to(y.device) < rate
    return torch.where(chosen, wrong, y)


@dataclass(frozen=True, kw_only=True)
class LabelNoise(PoisonedData):
    """Makes a share of the labels wrong: carelessness of annotators more often than malice."""

    rate: Annotated[float, Field(gt=0.0, le=1.0, description="Probability that a label is wrong")] = 0.5
    kind: Annotated[Kind, Field(description="Any other class in the place of the true one, or the next class")] = (
        "symmetric"
    )

    name: ClassVar[str] = "label-noise"
    summary: ClassVar[str] = "Trains the controlled clients on labels of which a share is wrong"
    family: ClassVar[str] = "data poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="Robust Federated Learning With Noisy and Heterogeneous Clients",
        authors="Fang, Ye",
        venue="CVPR 2022",
        where="symmetric and pair flipping",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = DATA_POISONING
    threat: ClassVar[ThreatModel] = data_threat(
        "Some participants train on carelessly or wrongly labelled data, so that the shared model becomes worse"
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """The shard with noisy labels.

        Raises:
            ConfigurationError: the task has no classes.
        """
        classes = label_count(facts.info, self.name)
        noisy = noisy_labels(shard.y, classes=classes, rate=self.rate, kind=self.kind, generator=generator)
        return Examples(shard.x, noisy, shard.attributes)
