"""Feature noise: right labels on inputs that are drowned in noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .poisoned_data import PoisonedData, refuse
from .texts import DATA_POISONING, data_threat

Law = Literal["uniform", "gaussian"]


def noisy_features(
    x: Tensor, *, amount: float, law: Law, bounds: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Inputs with noise in every coordinate, cut to the bounds again.

    Args:
        x: float inputs of any shape.
        amount: half width (``uniform``) or standard deviation (``gaussian``), in widths of the bounds.
        law: of the noise.
        bounds: lowest and highest value.
        generator: of the noise.
    """
    low, high = bounds
    if law == "uniform":
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1
    else:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return (x + noise.to(x.device) * (amount * (high - low))).clamp(low, high)


@dataclass(frozen=True, kw_only=True)
class FeatureNoise(PoisonedData):
    """Drowns the inputs of a share of the examples in noise; their labels stay.

    The default is the noise of Muñoz-González et al.: uniform between -1.4 and 1.4 on inputs in [-1, 1], cut to that
    interval.
    """

    amount: Annotated[
        float,
        Field(
            gt=0.0,
            le=100.0,
            description="Half width or standard deviation of the noise, in widths of the input's range",
        ),
    ] = 0.7
    law: Annotated[Law, Field(description="Distribution of the noise")] = "uniform"
    rate: Annotated[float, Field(gt=0.0, le=1.0, description="Probability that an example is noisy")] = 1.0

    name: ClassVar[str] = "feature-noise"
    summary: ClassVar[str] = "Trains the controlled clients on inputs that are drowned in noise"
    family: ClassVar[str] = "data poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="Byzantine-Robust Federated Machine Learning through Adaptive Model Averaging",
        authors="Muñoz-González, Co, Lupu",
        venue="arXiv 1909.05125",
        where="section 4, noisy clients",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = DATA_POISONING
    threat: ClassVar[ThreatModel] = data_threat(
        "Some participants train on inputs of a broken or tampered sensor, so that the shared model becomes worse"
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "no more than honest training"

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """The shard with noisy inputs.

        Raises:
            ConfigurationError: the inputs are tokens.
        """
        bounds = facts.info.bounds
        if bounds is None:
            expected, hint = "noise is added to numbers", "Use label-noise."
            raise refuse(self.name, "amount", f"the tokens of {facts.info.name}", expected, hint)
        noisy = noisy_features(shard.x, amount=self.amount, law=self.law, bounds=bounds, generator=generator)
        chosen = torch.rand(len(shard), generator=generator).to(shard.x.device) < self.rate
        keep = chosen.view(-1, *[1] * (shard.x.dim() - 1))
        return Examples(torch.where(keep, noisy, shard.x), shard.y, shard.attributes)
