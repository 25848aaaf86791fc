"""The attacks that seek the nearest misread input as plugins: DeepFool, Carlini-Wagner, FAB, HopSkipJump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .base import BLACK_BOX, AnyNormField, Bounds, NearestPoint, NormField
from .carlini_wagner import carlini_wagner
from .deepfool import deepfool
from .fab import fab
from .gradient_ascent import Passes
from .hop_skip_jump import hop_skip_jump
from .hyperplane import Metric

Euclidean = Annotated[float, Field(ge=0, description="distance within which a point counts, in units of the inputs")]


@dataclass(frozen=True, kw_only=True)
class DeepFool(NearestPoint):
    """DeepFool: steps to the nearest boundary of the linearised classifier until the input is misread."""

    name: ClassVar[str] = "deepfool"
    summary: ClassVar[str] = (
        "Seeks the nearest input that the published model misreads, along the boundaries of its linear pieces"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks",
        authors="Moosavi-Dezfooli, Fawzi, Frossard",
        venue="CVPR 2016",
        where="algorithm 2",
    )
    cost: ClassVar[str] = "a few forward passes per input, with one backward pass for each of the likeliest classes"

    eps: Euclidean = 1.0
    norm: AnyNormField = "l2"
    steps: Annotated[int, Field(ge=1, description="linearisations")] = 50
    overshoot: Annotated[float, Field(ge=0, description="share of the perturbation that is added to it")] = 0.02
    candidates: Annotated[int, Field(ge=1, description="likeliest classes whose boundaries are looked at")] = 10

    @property
    def metric(self) -> Metric:
        """See `NearestPoint`."""
        return self.norm

    def nearest(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        bounds: Bounds,
        generator: torch.Generator,
        passes: Passes,
    ) -> Tensor:
        """See `deepfool`."""
        return deepfool(
            net,
            x,
            y,
            eps=eps,
            norm=self.norm,
            steps=self.steps,
            overshoot=self.overshoot,
            candidates=self.candidates,
            bounds=bounds,
            passes=passes,
        )


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(NearestPoint):
    """Carlini and Wagner: Adam on the size of the perturbation plus a weight on the margin, searched per input."""

    name: ClassVar[str] = "carlini-wagner"
    summary: ClassVar[str] = (
        "Seeks the nearest input that the published model misreads by optimisation, with a weight searched per input"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Towards Evaluating the Robustness of Neural Networks",
        authors="Carlini, Wagner",
        venue="IEEE S&P 2017",
        where="sections VI.A and VI.C",
    )
    cost: ClassVar[str] = "at most searches x steps forward and backward passes per input"

    eps: Euclidean = 1.0
    norm: NormField = "l2"
    searches: Annotated[int, Field(ge=1, description="weights tried per input, at the most (linf: sizes)")] = 9
    steps: Annotated[int, Field(ge=1, description="steps of Adam per weight, at the most")] = 200
    rate: Annotated[float, Field(gt=0, description="learning rate of Adam")] = 0.05
    confidence: Annotated[float, Field(ge=0, description="by how much the wrong logit shall lead")] = 0.0
    examples: Annotated[int, Field(ge=1, description="test inputs attacked at the most, the first ones")] = 100

    @property
    def metric(self) -> Metric:
        """See `NearestPoint`."""
        return self.norm

    def nearest(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        bounds: Bounds,
        generator: torch.Generator,
        passes: Passes,
    ) -> Tensor:
        """See `carlini_wagner`."""
        return carlini_wagner(
            net,
            x,
            y,
            eps=eps,
            norm=self.norm,
            bounds=bounds,
            searches=self.searches,
            steps=self.steps,
            rate=self.rate,
            confidence=self.confidence,
            passes=passes,
        )


@dataclass(frozen=True, kw_only=True)
class FastAdaptiveBoundary(NearestPoint):
    """FAB: exact projections on linearised boundaries, mixed with the way back to the input."""

    name: ClassVar[str] = "fab"
    summary: ClassVar[str] = (
        "Seeks the nearest input that the published model misreads by projections on its boundaries, with steps back"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
        authors="Croce, Hein",
        venue="ICML 2020",
        where="algorithm 1",
    )
    cost: ClassVar[str] = "at most steps x restarts forward passes per input, with a backward pass for each class"

    norm: AnyNormField = "linf"
    steps: Annotated[int, Field(ge=1, description="linearisations per restart")] = 100
    restarts: Annotated[int, Field(ge=1, description="searches per input; all but the first start at random")] = 1
    examples: Annotated[int, Field(ge=1, description="test inputs attacked at the most, the first ones")] = 200
    beyond: Annotated[
        bool,
        Field(
            description="whether to go on to the nearest point, and beyond the size, so that distances are known; else "
            "an input that is misread inside the ball is done"
        ),
    ] = False

    @property
    def metric(self) -> Metric:
        """See `NearestPoint`."""
        return self.norm

    def nearest(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        bounds: Bounds,
        generator: torch.Generator,
        passes: Passes,
    ) -> Tensor:
        """See `fab`."""
        return fab(
            net,
            x,
            y,
            eps=eps,
            norm=self.norm,
            steps=self.steps,
            restarts=self.restarts,
            generator=generator,
            bounds=bounds,
            drop_fooled=not self.beyond,
            passes=passes,
        )


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(NearestPoint):
    """HopSkipJump: walks along the boundary by predicted classes alone, so hidden gradients do not mislead it."""

    name: ClassVar[str] = "hop-skip-jump"
    summary: ClassVar[str] = (
        "Seeks a near input that the model misreads by asking for predicted classes alone, thousands of times"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="HopSkipJumpAttack: A Query-Efficient Decision-Based Attack",
        authors="Chen, Jordan, Wainwright",
        venue="IEEE S&P 2020",
        where="algorithms 1 and 2",
    )
    cost: ClassVar[str] = "no backward pass; about batch x steps^1.5 forward passes per input"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = BLACK_BOX
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Somebody who can only ask the published model for answers alters an input slightly, and it is misread",
        position="outsider",
        knowledge=frozenset({Knowledge.TEST_INPUTS}),
        capabilities=frozenset({Capability.QUERY_ACCESS, Capability.TESTING_DATA_CONTROL}),
        stage=Stage.DEPLOYMENT,
    )
    decisions: ClassVar[bool] = True

    eps: Euclidean = 1.0
    norm: NormField = "l2"
    steps: Annotated[int, Field(ge=1, description="estimates of the boundary's direction per input")] = 30
    batch: Annotated[int, Field(ge=2, description="answers asked for in the first of these estimates")] = 100
    examples: Annotated[int, Field(ge=1, description="test inputs attacked at the most, the first ones")] = 50
    beyond: Annotated[
        bool,
        Field(
            description="whether to go on to the nearest point, and beyond the size, so that distances are known; else "
            "an input that is misread inside the ball is done"
        ),
    ] = False

    @property
    def metric(self) -> Metric:
        """See `NearestPoint`."""
        return self.norm

    def nearest(
        self,
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        bounds: Bounds,
        generator: torch.Generator,
        passes: Passes,
    ) -> Tensor:
        """See `hop_skip_jump`."""
        return hop_skip_jump(
            net,
            x,
            y,
            eps=None if eps == torch.inf else eps,
            norm=self.norm,
            steps=self.steps,
            batch=self.batch,
            bounds=bounds,
            generator=generator,
            passes=passes,
        )
