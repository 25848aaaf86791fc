"""GradInversion: L2 matching with image, batch-norm and group priors over several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedsec.threat import Knowledge, Paper

from .base import threat_of
from .gradient_matching import BatchNormField, GradientMatching, HalvingField, NoiseField
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class GradInversion(GradientMatching):
    """Yin et al. 2021: L2 gradient match + total variation + L2 + batch-norm statistics + group consistency.

    Several seeds per victim are optimised together and drawn to what they agree on after registration (`consensus`:
    translations, not RANSAC-flow); noise is added to each step; the learning rate follows a cosine after a warm-up.
    Differs from the paper: the gradient match is relative to the target's squared norm (one weight then fits every
    model) and scale-free where a defense may have scaled the update; labels are restored as counts, so that classes may
    repeat, not as the classes of the smallest entries; the winner is the seed with the best gradient match.
    """

    name: ClassVar[str] = "gradinversion"
    summary: ClassVar[str] = "Reconstructs batches by gradient matching with batch-norm and group-consistency priors"
    paper: ClassVar[Paper | None] = Paper(
        title="See through Gradients: Image Batch Recovery via GradInversion",
        authors="Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov",
        venue="CVPR 2021",
        where="section 3, eq. 1 to 12",
    )
    threat = threat_of(
        "A curious server optimises several guesses of a client's batch together until they would cause its update.",
        Knowledge.COUNTS,
        Knowledge.LOCAL_TRAINING,
    )
    cost: ClassVar[str] = "iterations x restarts double backward passes per victim, batched over victims"

    restarts: Annotated[int, Field(ge=1, description="Seeds per victim, which form the group")] = 4
    iterations: Annotated[int, Field(ge=8, description="Double backward passes per seed")] = 400
    learning_rate: Annotated[float, Field(gt=0, description="Of Adam, as a share of the width of the inputs")] = 0.1
    tv: Annotated[float, Field(ge=0, description="Weight of total variation; images only")] = 1e-3
    l2: Annotated[float, Field(ge=0, description="Weight of the inputs' energy")] = 1e-5
    statistics: Annotated[float, Field(ge=0, description="Weight of batch-norm statistics")] = 1e-2
    group: Annotated[float, Field(ge=0, description="Weight of group consistency")] = 1e-2
    group_shift: Annotated[int, Field(ge=0, description="Pixels by which registration may move an image")] = 2
    langevin: Annotated[
        float, Field(ge=0, description="Deviation of the noise of each step, as a share of the learning rate")
    ] = 0.2
    init: Annotated[Literal["normal", "uniform"], Field(description="Starting points, scaled to the bounds")] = "normal"
    labels: Annotated[
        Literal["gradient", "optimised", "oracle"],
        Field(description="read from the gradient, optimised with the images, or told: an oracle"),
    ] = "gradient"
    batch_norm: BatchNormField = "public"
    halving: HalvingField = (0.3,)
    noise_tv: NoiseField = 3e-3

    def recipe(self, *, exact: bool) -> Recipe:
        """L2 where the gradient's length is known."""
        return Recipe(
            distance="l2" if exact else "scale-free",
            optimizer="adam",
            evaluations=self.iterations,
            restarts=self.restarts,
            halving=self.halving,
            learning_rate=self.learning_rate,
            schedule="cosine",
            init=self.init,
            langevin=self.langevin,
            labels=self.labels,
            local_steps=self.local_steps,
            batch_norm=self.batch_norm,
            tv=self.tv,
            l2=self.l2,
            statistics=self.statistics,
            group=self.group if self.restarts > 1 else 0.0,
            group_every=max(1, self.iterations // 20),
            group_shift=self.group_shift,
            noise_tv=self.noise_tv,
        )
