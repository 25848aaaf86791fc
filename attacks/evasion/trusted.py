"""APGD, Square and the cascade of both with FAB as plugins: robust accuracy that can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .auto_attack import auto_attack
from .auto_pgd import apgd
from .base import BLACK_BOX, Bounds, Evasion, NormField
from .gradient_ascent import Passes
from .margins import Loss
from .square import square


@dataclass(frozen=True, kw_only=True)
class AutoPGD(Evasion):
    """APGD: gradient ascent with momentum whose step halves where the loss no longer rises."""

    name: ClassVar[str] = "apgd"
    summary: ClassVar[str] = (
        "Searches the neighbourhood of an input by gradient steps that adapt their length, with nothing to tune"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
        authors="Croce, Hein",
        venue="ICML 2020",
        where="algorithm 1",
    )
    cost: ClassVar[str] = "at most steps x restarts forward and backward passes per input; misread inputs stop early"

    norm: NormField = "linf"
    loss: Annotated[
        Loss, Field(description="what is raised: ce, or dlr, a ratio of logits that no scaling of the model hides")
    ] = "ce"
    steps: Annotated[int, Field(ge=1, description="gradient steps per restart")] = 100
    restarts: Annotated[int, Field(ge=1, description="random starts per input")] = 1

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `apgd`."""
        return apgd(
            net,
            x,
            y,
            eps=self.eps,
            norm=self.norm,
            loss=self.loss,
            steps=self.steps,
            restarts=self.restarts,
            bounds=bounds,
            generator=generator,
            passes=passes,
        )


@dataclass(frozen=True, kw_only=True)
class SquareSearch(Evasion):
    """Square: random search on the model's scores, which hidden gradients do not mislead."""

    name: ClassVar[str] = "square"
    summary: ClassVar[str] = (
        "Searches the neighbourhood of an input at random by the scores that the model answers, without gradients"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Square Attack: A Query-Efficient Black-Box Adversarial Attack via Random Search",
        authors="Andriushchenko, Croce, Flammarion, Hein",
        venue="ECCV 2020",
        where="algorithms 1 to 3",
    )
    cost: ClassVar[str] = "no backward pass; at most `queries` forward passes per input, misread inputs stop early"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = BLACK_BOX
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Somebody who can only ask the published model for scores alters an input slightly, and it is misread",
        position="outsider",
        knowledge=frozenset({Knowledge.TEST_INPUTS}),
        capabilities=frozenset({Capability.QUERY_ACCESS, Capability.TESTING_DATA_CONTROL}),
        stage=Stage.DEPLOYMENT,
    )

    norm: NormField = "linf"
    queries: Annotated[int, Field(ge=1, description="scores asked for per input, at the most")] = 5000
    share: Annotated[float, Field(gt=0, le=1, description="share of an image in the first squares")] = 0.8
    examples: Annotated[int, Field(ge=1, description="test inputs attacked at the most, the first ones")] = 200

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `square`."""
        return square(
            net,
            x,
            y,
            eps=self.eps,
            norm=self.norm,
            queries=self.queries,
            share=self.share,
            bounds=bounds,
            generator=generator,
            passes=passes,
        )


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Evasion):
    """AutoAttack: APGD, targeted APGD, targeted FAB and Square, each on what those before it left."""

    name: ClassVar[str] = "auto-attack"
    summary: ClassVar[str] = (
        "Runs four different attacks in turn, each on the inputs that the ones before did not turn, and keeps the worst"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
        authors="Croce, Hein",
        venue="ICML 2020",
        where="section 5",
    )
    cost: ClassVar[str] = "hundreds to thousands of passes for each input that withstands; others stop early"

    norm: NormField = "linf"
    steps: Annotated[int, Field(ge=1, description="of APGD and FAB, per target")] = 100
    queries: Annotated[int, Field(ge=1, description="of Square, per input that is left to it")] = 5000
    thorough: Annotated[
        bool, Field(description="every target and query to the end, where the search would else be left as hopeless")
    ] = False

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `auto_attack`."""
        return auto_attack(
            net,
            x,
            y,
            eps=self.eps,
            norm=self.norm,
            bounds=bounds,
            generator=generator,
            steps=self.steps,
            queries=self.queries,
            thorough=self.thorough,
            passes=passes,
        ).x_adv
