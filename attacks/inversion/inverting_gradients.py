"""Inverting Gradients: cosine matching with signed Adam, all victims and restarts as one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedsec.threat import Knowledge, Paper

from .base import threat_of
from .gradient_matching import GradientMatching, HalvingField, NoiseField
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class InvertingGradients(GradientMatching):
    """Geiping et al. 2020: ``1 - cos + tv * TV``, Adam on the sign of its gradient, each step projected on the box.

    One global cosine over the concatenated gradient: scale-free, so clipping by norm alone is no defense. The learning
    rate is divided by ten at three, five and seven eighths of the budget. Labels come from the gradient unless
    `labels` says otherwise. Differs from the paper: the iterate with the best objective is kept, not the last one.
    """

    name: ClassVar[str] = "inverting-gradients"
    summary: ClassVar[str] = "Reconstructs training inputs by matching the direction of a gradient with signed Adam"
    paper: ClassVar[Paper | None] = Paper(
        title="Inverting Gradients - How easy is it to break privacy in federated learning?",
        authors="Geiping, Bauermeister, Dröge, Moeller",
        venue="NeurIPS 2020",
        where="section 4, eq. 4; section 6 (several local steps); appendix A",
    )
    threat = threat_of(
        "A curious server optimises images until their gradient points where a client's update points.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    cost: ClassVar[str] = "iterations x restarts double backward passes per victim, batched over victims"
    revision: ClassVar[int] = 2

    restarts: Annotated[int, Field(ge=1, description="Starting points per victim; the best gradient match wins")] = 2
    iterations: Annotated[int, Field(ge=8, description="Double backward passes per starting point")] = 300
    learning_rate: Annotated[float, Field(gt=0, description="Of Adam, as a share of the width of the inputs")] = 0.1
    tv: Annotated[float, Field(ge=0, description="Weight of total variation; images only")] = 1e-3
    init: Annotated[Literal["normal", "uniform"], Field(description="Starting points, scaled to the bounds")] = "normal"
    labels: Annotated[
        Literal["gradient", "optimised", "oracle"],
        Field(description="read from the gradient, optimised with the images, or told: an oracle"),
    ] = "gradient"
    halving: HalvingField = (0.3,)
    noise_tv: NoiseField = 3e-3

    def recipe(self, *, exact: bool) -> Recipe:
        """The cosine does not need the gradient's length."""
        return Recipe(
            distance="cosine",
            optimizer="signed-adam",
            evaluations=self.iterations,
            restarts=self.restarts,
            halving=self.halving,
            learning_rate=self.learning_rate,
            schedule="steps",
            init=self.init,
            labels=self.labels,
            local_steps=self.local_steps,
            batch_norm=self.batch_norm,
            tv=self.tv,
            noise_tv=self.noise_tv,
        )
