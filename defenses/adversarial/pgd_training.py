"""Adversarial training: every local step is taken on inputs perturbed against the model of that step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedsec.models.lanes import Lanes, Step
from fedsec.threat import Paper

from .adversarial_training import AdversarialTraining, BallNorm, Bounds, Ramp, Share, Size, grown, weighted
from .inner_attack import Box, InnerAttack


@dataclass(frozen=True, kw_only=True)
class PGDTraining(AdversarialTraining):
    """Madry et al.'s saddle point at each client: the inner maximum by PGD, the outer step on what it found.

    The inner attack runs on the model in eval mode (batch-norm statistics do not move, dropout is off), or in train
    mode if asked, where all inner steps and the training step draw one dropout mask; the step on its result is an
    ordinary training step. A size as large as 0.3 on [0, 1] can stay at the loss of guessing for long unless it
    grows over the first rounds (``ramp``).
    """

    name: ClassVar[str] = "pgd-at"
    summary: ClassVar[str] = (
        "Trains each client on inputs perturbed against its current model by projected gradient descent"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        authors="Madry, Makelov, Schmidt, Tsipras, Vladu",
        venue="ICLR 2018",
        where="section 2.1, equation 2.1; at every client as in Zizzo et al. 2020 (FAT)",
    )
    cost: ClassVar[str] = "steps more forward and backward passes per local step, and some clean accuracy"

    eps: Size = 0.1
    step: Annotated[
        float | None,
        Field(gt=0, description="length of an inner step in units of the inputs; null for 2.5 eps / steps"),
    ] = None
    steps: Annotated[int, Field(ge=1, description="inner gradient steps per local step")] = 7
    norm: BallNorm = "linf"
    random_start: Annotated[bool, Field(description="start the inner steps at a random point of the ball")] = True
    mix: Annotated[
        float,
        Field(ge=0, lt=1, description="weight of the clean inputs in the loss; 0 is Madry's, on perturbed inputs only"),
    ] = 0.0
    bounds: Bounds = (0.0, 1.0)
    ramp: Ramp = 0
    share: Share = 1.0
    mode: Annotated[
        Literal["eval", "train"],
        Field(description="of the model in the inner steps; train draws the dropout mask of the local step in all"),
    ] = "eval"

    @property
    def inner(self) -> InnerAttack:
        """The attack that each step is trained against, at its full size."""
        length = 2.5 * self.eps / self.steps if self.step is None else self.step
        low, high = self.bounds
        box = Box(self.eps, self.norm, (low, high))
        return InnerAttack(box, length, self.steps, self.random_start, train=self.mode == "train")

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return PerturbedStep(step, self.inner, self.mix, self.ramp)


@dataclass(frozen=True)
class PerturbedStep:
    """The wrapped step on perturbed inputs, and on clean ones as well if they are mixed in (picklable).

    Attributes:
        step: what it wraps.
        inner: the attack at its full size.
        mix: weight of the clean inputs.
        ramp: rounds over which the attack grows.
    """

    step: Step
    inner: InnerAttack
    mix: float
    ramp: int = 0

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        attack = self.inner.scaled(grown(self.ramp, lanes.round))
        gradients = self.step(lanes, attack(lanes, x, y), y)
        if not self.mix:
            return gradients
        return weighted((gradients, self.step(lanes, x, y)), (1 - self.mix, self.mix))
