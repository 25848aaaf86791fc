"""YOPO: many steps of the perturbation through the first layer alone, between few passes through the whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.models.lanes import Lanes, Step, gradient_step
from fedsec.models.layers import find_layer
from fedsec.models.mnist_cnn import Standardise
from fedsec.threat import Paper

from .adversarial_training import AdversarialTraining, BallNorm, Bounds, Ramp, Share, Size, grown
from .inner_attack import Box, InnerAttack

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Flatten, nn.Identity, nn.AvgPool2d, Standardise)
"""Layers whose output is affine in their input."""


@dataclass(frozen=True, kw_only=True)
class YOPO(AdversarialTraining):
    """YOPO-m-n: ``passes`` full passes, whose parameter gradients are averaged, and ``steps`` steps in between.

    Each full pass gives the gradient in the parameters and ``p``, that of the loss in the output of the first
    layer, at the perturbation of its start; ``p`` is then held fixed while ``steps`` steps climb ``<p, layer(x +
    eta)>``, each of which runs the first layer only (the first of them not even that: the full pass gives its
    gradient). The gradient of every parameter, the first layer's too, is taken once per full pass. It is averaged
    over the passes, so that the learning rate keeps its meaning (the paper adds, and divides the rate). Nothing
    climbs after the last pass, whose result nobody would use. The passes are in train mode, under one dropout mask.

    Where the first layer is affine in the input (a bare linear or convolutional layer), the gradient of the steps
    does not depend on the perturbation, so the ``steps`` are taken without any pass, exactly: in ``linf`` they are
    one step of ``steps`` times the length. A first layer with its activation is not affine; name that activation as
    the layer to have it inside.
    """

    name: ClassVar[str] = "yopo"
    summary: ClassVar[str] = "Trains each client on perturbations found through the first layer alone (YOPO-m-n)"
    paper: ClassVar[Paper | None] = Paper(
        title="You Only Propagate Once: Accelerating Adversarial Training via Maximal Principle",
        authors="Zhang, Zhang, Lu, Zhu, Dong",
        venue="NeurIPS 2019",
        where="algorithm 1",
    )
    cost: ClassVar[str] = "passes forward and backward passes per local step, and those through the first layer"

    eps: Size = 0.1
    passes: Annotated[int, Field(ge=1, description="full passes per local step, m in the paper")] = 5
    steps: Annotated[int, Field(ge=1, description="steps through the first layer after each, n in the paper")] = 3
    sigma: Annotated[
        float | None,
        Field(gt=0, description="length of an inner step in units of the inputs; null for eps / (2 steps)"),
    ] = None
    layer: Annotated[
        str, Field(description="the layer that the steps go through; empty for the first with parameters")
    ] = ""
    closed_form: Annotated[
        bool, Field(description="take the steps without passes where the layer is affine in the input")
    ] = True
    norm: BallNorm = "linf"
    random_start: Annotated[bool, Field(description="start at a random point of the ball")] = True
    bounds: Bounds = (0.0, 1.0)
    ramp: Ramp = 0
    share: Share = 1.0

    @property
    def inner(self) -> InnerAttack:
        """The steps after each full pass, at their full size."""
        low, high = self.bounds
        length = self.eps / (2 * self.steps) if self.sigma is None else self.sigma
        return InnerAttack(Box(self.eps, self.norm, (low, high)), length, self.steps, self.random_start, train=True)

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return PropagateOnceStep(step, self.inner, self.passes, self.layer, self.closed_form, self.ramp)


@dataclass(frozen=True)
class PropagateOnceStep:
    """The mean of the wrapped step's gradients at the perturbations between which the first layer climbs (picklable).

    Attributes:
        step: what it wraps.
        inner: the steps after each pass, at their full size.
        passes: full passes.
        layer: that the steps go through; empty for the first with parameters.
        closed: whether an affine layer is not run.
        ramp: rounds over which the size grows.
    """

    step: Step
    inner: InnerAttack
    passes: int
    layer: str
    closed: bool = True
    ramp: int = 0

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        attack = self.inner.scaled(grown(self.ramp, lanes.round))
        at = self.layer or lanes.model.layout.parameters[0].layer
        flat = self.closed and affine_until(lanes.model.module, at)
        perturbed = attack.box.uniform(lanes, x) if attack.random_start else x.detach()
        total: tuple[Tensor, ...] = ()
        for number in range(self.passes):
            climbs = number < self.passes - 1
            gradients, slope, inward = self._full(lanes, perturbed, y, None if flat else at, climbs=climbs)
            total = tuple(a + b for a, b in zip(total, gradients, strict=True)) if total else gradients
            if climbs:
                perturbed = _climbed(lanes, attack, x, perturbed, inward, slope, at)
        return tuple(part / self.passes for part in total)

    def _full(
        self, lanes: Lanes, x: Tensor, y: Tensor, at: str | None, *, climbs: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor | None]:
        """Gradients in the parameters; that in the output of layer ``at``, if it is named; that in the inputs."""
        if not climbs:
            return self.step(lanes, x, y), None, None
        leaf = x.detach().requires_grad_()
        shift = None if at is None else lanes.zero_shift(x, at).requires_grad_()
        asked = (leaf,) if shift is None else (leaf, shift)
        losses = lanes.losses(leaf, y, train=True, shift=shift, at=at or "")
        if self.step is not gradient_step:
            found = torch.autograd.grad(losses.sum(), asked)
            return self.step(lanes, x, y), None if shift is None else found[1], found[0]
        every = torch.autograd.grad(losses.mean(-1).sum(), (*lanes.parameters, *asked))
        count = len(lanes.parameters)
        return every[:count], None if shift is None else every[count + 1], every[count]


def _climbed(
    lanes: Lanes,
    attack: InnerAttack,
    x: Tensor,
    perturbed: Tensor,
    inward: Tensor | None,
    slope: Tensor | None,
    at: str,
) -> Tensor:
    """After the inner steps; ``inward`` is the gradient of the first, and of all if there is no ``slope``."""
    if inward is None:
        raise ValueError("a pass that is climbed from has an input gradient")
    if slope is None and attack.box.norm == "linf":
        return attack.box.up(perturbed, x, inward, attack.steps * attack.step)
    for number in range(attack.steps):
        if slope is not None and number:
            leaf = perturbed.detach().requires_grad_()
            (inward,) = torch.autograd.grad((slope * lanes.output_of(leaf, at, train=True)).sum(), leaf)
        perturbed = attack.box.up(perturbed, x, inward, attack.step)
    return perturbed


def affine_until(module: nn.Module, name: str) -> bool:
    """Whether the output of the layer is known to be affine in the input: a chain of affine layers leads to it."""
    find_layer(module, name)
    part, chain = module, []
    for step in name.split(".") if name else []:
        if not isinstance(part, nn.Sequential):
            return False
        children = list(part._modules.items())
        place = [key for key, _ in children].index(step)
        chain += [child for _, child in children[:place]]
        part = part.get_submodule(step)
    leaves = [leaf for child in (*chain, part) if child is not None for leaf in _leaves(child)]
    return all(isinstance(leaf, AFFINE) for leaf in leaves)


def _leaves(part: nn.Module) -> list[nn.Module]:
    """The layers of a chain; anything else that has parts of its own counts as one layer."""
    if not isinstance(part, nn.Sequential):
        return [part]
    return [leaf for child in part for leaf in _leaves(child)]
