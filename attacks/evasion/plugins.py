"""The gradient steps on the released model as plugins: white-box evasion at deployment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.threat import Paper

from .base import AnyNormField, Bounds, Evasion
from .basic_iterative import bim, fgm
from .gradient_ascent import Passes, fgsm, pgd


@dataclass(frozen=True, kw_only=True)
class FastGradientSign(Evasion):
    """FGSM: one step of the full size along the sign of the gradient (the gradient itself in l2)."""

    name: ClassVar[str] = "fgsm"
    summary: ClassVar[str] = (
        "Alters every input value by one signed gradient step so that the published model misreads the input"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Explaining and Harnessing Adversarial Examples",
        authors="Goodfellow, Shlens, Szegedy",
        venue="ICLR 2015",
        where="section 4",
    )
    cost: ClassVar[str] = "one forward and one backward pass per input"

    norm: AnyNormField = "linf"

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `fgsm`."""
        return fgsm(net, x, y, eps=self.eps, norm=self.norm, bounds=bounds, passes=passes)


@dataclass(frozen=True, kw_only=True)
class FastGradient(Evasion):
    """FGM: one step of the full Euclidean length along the gradient."""

    name: ClassVar[str] = "fgm"
    summary: ClassVar[str] = (
        "Alters an input by one gradient step of a given Euclidean length so that the published model misreads it"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Adversarial Training Methods for Semi-Supervised Text Classification",
        authors="Miyato, Dai, Goodfellow",
        venue="ICLR 2017",
        where="section 3, on inputs",
    )
    cost: ClassVar[str] = "one forward and one backward pass per input"
    norm: ClassVar[str] = "l2"

    eps: Annotated[
        float, Field(ge=0, description="Euclidean length of the perturbation, in units of the dataset's inputs")
    ] = 1.0

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `fgm`."""
        return fgm(net, x, y, eps=self.eps, bounds=bounds, passes=passes)


@dataclass(frozen=True, kw_only=True)
class BasicIterative(Evasion):
    """BIM: small signed steps from the input itself, as many as reach the edge of the ball and a little more."""

    name: ClassVar[str] = "bim"
    summary: ClassVar[str] = (
        "Alters an input by many small signed gradient steps so that the published model misreads it"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Adversarial Machine Learning at Scale",
        authors="Kurakin, Goodfellow, Bengio",
        venue="ICLR 2017",
        where="section 2.2",
    )
    cost: ClassVar[str] = "at most 1.25 eps / step forward and backward passes per input; misread inputs stop early"

    step: Annotated[
        float | None, Field(gt=0, description="length of a step in units of the inputs; null for 1/255 of their range")
    ] = None
    steps: Annotated[int | None, Field(ge=1, description="gradient steps; null for the paper's rule")] = None
    norm: AnyNormField = "linf"

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `bim`."""
        return bim(
            net,
            x,
            y,
            eps=self.eps,
            step=self.step,
            steps=self.steps,
            norm=self.norm,
            bounds=bounds,
            passes=passes,
        )


@dataclass(frozen=True, kw_only=True)
class ProjectedGradientDescent(Evasion):
    """PGD: many small steps inside the ball from random starts, the worst case over restarts for each input."""

    name: ClassVar[str] = "pgd"
    summary: ClassVar[str] = (
        "Searches the neighbourhood of an input by gradient steps for a point that the model misreads"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        authors="Madry, Makelov, Schmidt, Tsipras, Vladu",
        venue="ICLR 2018",
        where="section 2.1",
    )
    cost: ClassVar[str] = "at most steps x restarts forward and backward passes per input; misread inputs stop early"

    step: Annotated[
        float | None, Field(gt=0, description="length of a step in units of the inputs; null for 2.5 eps / steps")
    ] = None
    steps: Annotated[int, Field(ge=1, description="gradient steps per restart")] = 40
    norm: AnyNormField = "linf"
    restarts: Annotated[int, Field(ge=1, description="random starts per input")] = 1

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `pgd`."""
        return pgd(
            net,
            x,
            y,
            eps=self.eps,
            step=self.step,
            steps=self.steps,
            norm=self.norm,
            bounds=bounds,
            restarts=self.restarts,
            generator=generator,
            passes=passes,
        )
