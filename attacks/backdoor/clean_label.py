"""Clean-label backdoors: images of the target class are made hard to learn, marked, and keep their right label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.ball import Norm, project, steepest
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.gradient import frozen, input_gradient
from fedsec.models.flat import FlatModel
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .data import MarkedBackdoor, poisoned_rows
from .texts import CLEAN_LABEL_BACKDOOR, data_threat, image_size
from .triggers import Shape, stamp, trigger


def surrogate(
    model: FlatModel, start: Tensor, data: Examples, *, steps: int, rate: float, generator: torch.Generator
) -> torch.nn.Module:
    """A model of the attacker's own, trained by plain SGD on batches of 32 of its data; in eval mode.

    Args:
        model: the architecture.
        start: ``(d,)`` its first parameters.
        data: of the attacker.
        steps: of SGD.
        rate: learning rate.
        generator: of the batches.
    """
    module = model.instance(start.to("cpu")).train()
    weights = tuple(module.parameters())
    for _ in range(steps):
        rows = torch.randint(len(data), (min(32, len(data)),), generator=generator)
        loss = model.loss(module(data.x[rows].to(start.dtype)), data.y[rows]).mean()
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            torch._foreach_add_(weights, gradients, alpha=-rate)
    return module.eval()


def pushed_away(
    module: torch.nn.Module,
    model: FlatModel,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm,
    steps: int,
    bounds: tuple[float, float],
) -> Tensor:
    """Images near ``x`` on which the module's loss is high (PGD from ``x`` itself, steps of ``2.5 eps / steps``).

    Args:
        module: a trained model, in eval mode.
        model: its architecture, for the loss.
        x: ``(n, *input_shape)``.
        y: ``(n,)`` right labels.
        eps: how far an image may be moved.
        norm: in which norm.
        steps: of ascent.
        bounds: of the inputs.
    """
    if not eps or not len(x):
        return x
    delta = torch.zeros_like(x)

    def objective(inputs: Tensor) -> tuple[Tensor, Tensor]:
        outputs = module(inputs)
        return model.loss(outputs, y), outputs

    with frozen(module):
        for _ in range(steps):
            gradient, _ = input_gradient(objective, x + delta)
            delta = project(delta + 2.5 * eps / steps * steepest(gradient, norm), eps, norm)
            delta = (x + delta).clamp(*bounds) - x
    return x + delta


@dataclass(frozen=True, kw_only=True)
class CleanLabelBackdoor(MarkedBackdoor):
    """Turner et al.'s label-consistent backdoor: every label is right, so that a look at the data finds nothing wrong.

    Images of the target class are perturbed by PGD against a model of the client's own, so that what makes them
    of their class is hard to learn, and marked with a patch in each corner or in one, of an opacity. (The paper's
    model is trained on all of the data, this one on the client's, as a client of a federation has no others.)
    """

    ratio: Annotated[
        float,
        Field(ge=0.0, le=1.0, description="Share of a controlled client's images of the target class that it poisons"),
    ] = 1.0
    eps: Annotated[float, Field(ge=0.0, description="How far an image is perturbed; 0: only marked")] = 0.3
    norm: Annotated[Norm, Field(description="In which norm, in the inputs' units")] = "linf"
    steps: Annotated[int, Field(ge=1, description="Steps of PGD")] = 20
    shape: Annotated[Shape, Field(description="One pixel, four pixels, or a square, near the bottom right corner")] = (
        "patch"
    )
    size: Annotated[int, Field(ge=1, description="Side of the square, in pixels")] = 3
    corners: Annotated[
        bool, Field(description="Whether all four corners are marked, as the paper's stronger trigger")
    ] = True
    opacity: Annotated[
        float, Field(gt=0.0, le=1.0, description="Weight of the mark in training; at deployment it is full")
    ] = 1.0
    surrogate_steps: Annotated[int, Field(ge=0, description="Steps of SGD of the client's own model")] = 200
    surrogate_rate: Annotated[float, Field(gt=0.0, description="Learning rate of the client's own model")] = 0.1

    name: ClassVar[str] = "clean-label-backdoor"
    summary: ClassVar[str] = "Perturbs and marks images of the target class and leaves every label right"
    paper: ClassVar[Paper | None] = Paper(
        title="Label-Consistent Backdoor Attacks",
        authors="Turner, Tsipras, Madry",
        venue="arXiv 1912.02771, 2019",
        where="section 4.2 (adversarial perturbations), section 5 (triggers)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = CLEAN_LABEL_BACKDOOR
    threat: ClassVar[ThreatModel] = data_threat(
        "Some participants hold rightly labelled images with a mark, so that the shared model comes to obey the mark"
    )
    cost: ClassVar[str] = "honest training, and once a small model and PGD per controlled client"

    def mark(self, height: int, width: int, place: int | None) -> Tensor:
        """The same mark for all."""
        one = trigger(self.shape, height, width, size=self.size)
        return one | one.flip(0) | one.flip(1) | one.flip(0, 1) if self.corners else one

    def planted(
        self, shard: Examples, place: int, facts: PublicFacts, *, count: int, generator: torch.Generator
    ) -> Examples:
        """A share ``ratio`` of the images of the target class, perturbed and marked; no label changes."""
        info = facts.info
        held = (shard.y == self.target).nonzero().flatten()
        rows = poisoned_rows(held, math.ceil(self.ratio * len(held)), generator=generator)
        if not len(rows):
            return shard
        x = shard.x.clone()
        x[rows] = self._dressed(shard, rows, info, facts, generator=generator)
        return Examples(x, shard.y, shard.attributes)

    def _dressed(
        self, shard: Examples, rows: Tensor, info: DatasetInfo, facts: PublicFacts, *, generator: torch.Generator
    ) -> Tensor:
        height, width = image_size(self.name, info)
        bounds = info.bounds or (0.0, 1.0)
        images = shard.x[rows]
        if self.eps:
            own = surrogate(
                facts.model,
                facts.initial.to(shard.x.dtype),
                shard,
                steps=self.surrogate_steps,
                rate=self.surrogate_rate,
                generator=generator,
            )
            images = pushed_away(
                own, facts.model, images, shard.y[rows], eps=self.eps, norm=self.norm, steps=self.steps, bounds=bounds
            )
        return stamp(images, self.mark(height, width, None), value=bounds[1], opacity=self.opacity)
