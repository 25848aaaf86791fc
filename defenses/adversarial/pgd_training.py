"""Adversarial training: every local step is taken on inputs perturbed against the model of that step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.ball import Norm, project, steepest, uniform_in_ball
from fedsec.gradient import input_gradient
from fedsec.models.lanes import Lanes, Step
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, Setting
from fedsec.threat import Paper, Taxonomy


@dataclass(frozen=True)
class InnerAttack:
    """Projected gradient ascent against every lane's own model at once.

    Attributes:
        eps: radius of the ball, in units of the inputs.
        step: length of a step.
        steps: number of steps.
        norm: of the ball.
        bounds: lowest and highest value of an input.
        random_start: start at a point drawn uniformly from the ball, else at the input.
    """

    eps: float
    step: float
    steps: int
    norm: Norm
    bounds: tuple[float, float]
    random_start: bool

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> Tensor:
        """Perturbed inputs, ``(l, b, *shape)`` like ``x``; in eval mode, with gradients for the inputs only.

        Lanes and examples do not mix, so the gradient of the sum of all losses is each example's own.
        """

        def losses(leaf: Tensor) -> tuple[Tensor, Tensor]:
            found = lanes.losses(leaf, y, train=False)
            return found, found

        perturbed = self._start(lanes, x)
        for _ in range(self.steps):
            gradient, _ = input_gradient(losses, perturbed)
            with torch.no_grad():
                perturbed = self._into(perturbed + self.step * steepest(gradient, self.norm, lead=2), x)
        return perturbed.detach()

    def _start(self, lanes: Lanes, x: Tensor) -> Tensor:
        if not self.random_start:
            return x.detach()
        with torch.no_grad():
            unit = lanes.uniform(tuple(x.shape[1:]), salt=_SALT).to(x.dtype)
            radius = lanes.uniform((x.shape[1],), salt=_SALT + 1).to(x.dtype)
            return self._into(x + uniform_in_ball(unit, radius, self.eps, self.norm, lead=2), x)

    def _into(self, perturbed: Tensor, x: Tensor) -> Tensor:
        return (x + project(perturbed - x, self.eps, self.norm, lead=2)).clamp(*self.bounds)


_SALT = 71
"""Sets the draws of the start apart from those of other defenses in a step."""


@dataclass(frozen=True, kw_only=True)
class PGDTraining(Defense):
    """Madry et al.'s saddle point at each client: the inner maximum by PGD, the outer step on what it found.

    The inner attack runs on the model in eval mode (batch-norm statistics do not move, dropout is off); the step
    on its result is an ordinary training step. A step has no memory of the round, so the size cannot be raised
    over the first rounds; sizes as large as 0.3 on [0, 1] may then stay at the loss of guessing for long.
    A controlled client does not run this, and it protects inputs at deployment only: what updates say of
    training data, and what poisoned updates do, is as before.
    """

    name: ClassVar[str] = "pgd-at"
    summary: ClassVar[str] = (
        "Trains each client on inputs perturbed against its current model by projected gradient descent"
    )
    family: ClassVar[str] = "adversarial training"
    paper: ClassVar[Paper | None] = Paper(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        authors="Madry, Makelov, Schmidt, Tsipras, Vladu",
        venue="ICLR 2018",
        where="section 2.1, equation 2.1; at every client as in Zizzo et al. 2020 (FAT)",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (Taxonomy("mitre-atlas-5.6", "AML.M0003", "Model Hardening", "exact"),)
    cost: ClassVar[str] = "steps more forward and backward passes per local step, and some clean accuracy"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="how the released model reads inputs that were altered by at most eps",
        against="white-box evasion in the trained norm; measured, not certified",
        assuming="clients are honest, and the altered inputs stay within the trained size and norm",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN, Kind.SEALED, Kind.MASKED})

    eps: Annotated[
        float, Field(ge=0, description="size of the perturbation trained against, in units of the dataset's inputs")
    ] = 0.1
    step: Annotated[
        float | None,
        Field(gt=0, description="length of an inner step in units of the inputs; null for 2.5 eps / steps"),
    ] = None
    steps: Annotated[int, Field(ge=1, description="inner gradient steps per local step")] = 7
    norm: Annotated[Norm, Field(description="norm in which the size is measured: linf or l2")] = "linf"
    random_start: Annotated[bool, Field(description="start the inner steps at a random point of the ball")] = True
    mix: Annotated[
        float,
        Field(ge=0, lt=1, description="weight of the clean inputs in the loss; 0 is Madry's, on perturbed inputs only"),
    ] = 0.0
    bounds: Annotated[
        tuple[float, float], Field(description="lowest and highest value of an input, as the dataset states them")
    ] = (0.0, 1.0)

    @property
    def enforcement(self) -> EnforcedBy:
        """Only honest clients train so."""
        return EnforcedBy.CLIENT

    @property
    def inner(self) -> InnerAttack:
        """The attack that each step is trained against."""
        length = 2.5 * self.eps / self.steps if self.step is None else self.step
        low, high = self.bounds
        return InnerAttack(self.eps, length, self.steps, self.norm, (low, high), self.random_start)

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """See `Defense.problems`."""
        if setting.bounds is None:
            return (
                (
                    "the inputs are tokens, which have no neighbourhood to be perturbed in",
                    "leave pgd-at out, or choose a dataset of images",
                ),
            )
        if not all(math.isclose(a, b) for a, b in zip(self.bounds, setting.bounds, strict=True)):
            return (
                (
                    f"its bounds are {tuple(self.bounds)} and the dataset's are {setting.bounds}",
                    f"write bounds: [{setting.bounds[0]}, {setting.bounds[1]}] for pgd-at",
                ),
            )
        return ()

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return _AdversarialStep(step, self.inner, self.mix)


@dataclass(frozen=True)
class _AdversarialStep:
    """The wrapped step on perturbed inputs, and on clean ones as well if they are mixed in (picklable)."""

    step: Step
    inner: InnerAttack
    mix: float

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        gradients = self.step(lanes, self.inner(lanes, x, y), y)
        if not self.mix:
            return gradients
        clean = self.step(lanes, x, y)
        return tuple((1 - self.mix) * a + self.mix * b for a, b in zip(gradients, clean, strict=True))
