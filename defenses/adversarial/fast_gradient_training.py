"""Adversarial training on one gradient step: the sign method with a random start, and the gradient over its length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.lanes import Lanes, Step
from fedsec.protocol.stage import Setting
from fedsec.threat import Paper

from .adversarial_training import AdversarialTraining, Bounds, Ramp, Share, Size, grown
from .inner_attack import Box, InnerAttack
from .pgd_training import PerturbedStep

WITNESS_STEPS = 5
"""Steps of the attack that tells whether one step still says anything, as in the authors' early stopping."""


@dataclass(frozen=True, kw_only=True)
class FGSMTraining(AdversarialTraining):
    """Fast adversarial training: one signed step from a random start, projected on the ball and the bounds.

    The start is put into the bounds before the gradient is taken there. Training on one step can overfit it
    catastrophically: within an epoch, accuracy under many steps falls to nothing while that under one step rises. A
    client sees this on its own data: at its last step of a round it attacks that batch with one step and with PGD
    of 5 steps of ``eps / 4``, on the model before the step, and reports both accuracies and whether they lie
    further apart than ``gap`` (``fgsm-at.overfits``, in the diagnostics the share of clients and rounds). Small
    last batches make it noisy. With ``cure: pgd`` a client looks at every step, and once it sees the gap it trains
    on the attack of 5 steps to the end of its round, much as Li et al. 2020 do; the look costs 7 more forward
    passes in every step.
    """

    name: ClassVar[str] = "fgsm-at"
    summary: ClassVar[str] = "Trains each client on inputs perturbed by one signed gradient step from a random start"
    paper: ClassVar[Paper | None] = Paper(
        title="Fast is Better than Free: Revisiting Adversarial Training",
        authors="Wong, Rice, Kolter",
        venue="ICLR 2020",
        where="algorithm 3; early stopping as in its code",
    )
    cost: ClassVar[str] = "one more forward and backward pass per local step"

    eps: Size = 0.1
    step: Annotated[
        float, Field(gt=0, description="length of the step as a multiple of eps; the paper finds 1.25 best")
    ] = 1.25
    random_start: Annotated[bool, Field(description="start at a random point of the ball; if not, plain FGSM")] = True
    gap: Annotated[
        float, Field(gt=0, le=1, description="accuracy that PGD may take away beyond FGSM before it is overfitting")
    ] = 0.2
    cure: Annotated[
        Literal["none", "pgd"], Field(description="what a client does for the rest of its round once it overfits")
    ] = "none"
    bounds: Bounds = (0.0, 1.0)
    ramp: Ramp = 0
    share: Share = 1.0

    def problems(self, setting: Setting) -> list[tuple[str, str]]:
        """See `Defense.problems`."""
        found = list(super().problems(setting))
        if setting.task != "classification":
            found.append(
                ("its detector compares accuracies, and the task has no classes", "use pgd-at with steps: 1 instead")
            )
        return found

    @property
    def inner(self) -> InnerAttack:
        """The step that is trained on, at its full size."""
        low, high = self.bounds
        return InnerAttack(Box(self.eps, "linf", (low, high)), self.step * self.eps, 1, self.random_start)

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return FastStep(step, self.inner, self.ramp, self.gap, self.cure == "pgd", self.name)


@dataclass(frozen=True)
class FastStep:
    """The wrapped step on inputs after one gradient step, and the look at whether it still fools (picklable).

    Attributes:
        step: what it wraps.
        inner: the attack at its full size.
        ramp: rounds over which it grows.
        gap: difference of accuracies that is called overfitting.
        cure: whether it looks at every step, and trains on the witness once it has seen the gap.
        name: what it reports under.
    """

    step: Step
    inner: InnerAttack
    ramp: int
    gap: float
    cure: bool
    name: str

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        attack = self.inner.scaled(grown(self.ramp, lanes.round))
        perturbed = attack(lanes, x, y)
        if self.cure or any(lanes.step + 1 == steps for steps in lanes.steps):
            perturbed = self._look(lanes, attack, x, y, perturbed)
        return self.step(lanes, perturbed, y)

    def _look(self, lanes: Lanes, attack: InnerAttack, x: Tensor, y: Tensor, fast: Tensor) -> Tensor:
        """Reports of these lanes; the inputs to train on."""
        slow = replace(attack, steps=WITNESS_STEPS, step=attack.box.eps / 4)(lanes, x, y)
        with torch.no_grad():
            one, many = (
                (lanes.outputs(inputs, train=False).argmax(-1) == y).to(x.dtype).mean(-1) for inputs in (fast, slow)
            )
        overfits = (one - many > self.gap).to(x.dtype)
        if self.cure:
            seen = lanes.recall(self.name, overfits.unsqueeze(1)).squeeze(1)
            overfits = torch.maximum(seen, overfits)
            lanes.keep(self.name, overfits.unsqueeze(1))
            fast = torch.where(overfits.view(-1, *(1 for _ in x.shape[1:])) > 0, slow, fast)
        for what, values in (("fgsm_accuracy", one), ("pgd_accuracy", many), ("overfits", overfits)):
            lanes.report(f"{self.name}.{what}", values)
        return fast


@dataclass(frozen=True, kw_only=True)
class FGMTraining(AdversarialTraining):
    """The fast gradient method: a step of length ``eps`` along each example's gradient, in the Euclidean norm.

    It starts at the input itself, and half of the loss is that of the clean input, as in the source's equation for the
    sign method; the Euclidean step is that of Miyato et al. 2017.
    """

    name: ClassVar[str] = "fgm-at"
    summary: ClassVar[str] = "Trains each client on clean inputs and on inputs moved along their gradients (L2)"
    paper: ClassVar[Paper | None] = Paper(
        title="Explaining and Harnessing Adversarial Examples",
        authors="Goodfellow, Shlens, Szegedy",
        venue="ICLR 2015",
        where="section 6 (the mixed loss); step of Miyato et al. 2017",
    )
    cost: ClassVar[str] = "two more forward and backward passes per local step; one if nothing is mixed in"

    eps: Size = 1.0
    mix: Annotated[float, Field(ge=0, lt=1, description="weight of the clean inputs in the loss")] = 0.5
    bounds: Bounds = (0.0, 1.0)
    ramp: Ramp = 0
    share: Share = 1.0

    @property
    def inner(self) -> InnerAttack:
        """The step that is trained on, at its full size."""
        low, high = self.bounds
        return InnerAttack(Box(self.eps, "l2", (low, high)), self.eps, 1, random_start=False)

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return PerturbedStep(step, self.inner, self.mix, self.ramp)
