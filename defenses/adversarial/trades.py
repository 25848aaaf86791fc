"""TRADES: the clean loss, and a penalty on how far a perturbation can move what the model answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.lanes import Lanes, Step, gradient_step
from fedsec.protocol.stage import Setting
from fedsec.threat import Paper

from .adversarial_training import AdversarialTraining, BallNorm, Bounds, Ramp, Share, Size, grown, weighted
from .inner_attack import Box, InnerAttack

_SALT = 77
START = 0.001
"""Standard deviation of the start around an input, where the divergence itself has no gradient."""


@dataclass(frozen=True, kw_only=True)
class Trades(AdversarialTraining):
    """``CE(f(x), y) + beta max KL(f(x) || f(x'))`` at each client, the maximum by projected gradient ascent.

    The divergence is from the answer on the clean input to that on the perturbed one, as the authors' code computes
    it. The ascent starts at ``x + 0.001 N(0, 1)`` and runs in eval mode; both terms of the loss are in train mode,
    under one dropout mask, and batch-norm statistics move with the clean inputs only (in the authors' code with
    both). With beta 0 it is natural training. In L2 a step goes along the gradient over its length.
    """

    name: ClassVar[str] = "trades"
    summary: ClassVar[str] = "Trains each client to be accurate, and to answer alike around its inputs (TRADES)"
    paper: ClassVar[Paper | None] = Paper(
        title="Theoretically Principled Trade-off between Robustness and Accuracy",
        authors="Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan",
        venue="ICML 2019",
        where="algorithm 1",
    )
    cost: ClassVar[str] = "steps + 1 more forward and backward passes per local step, and some clean accuracy"

    eps: Size = 0.1
    beta: Annotated[
        float, Field(ge=0, description="weight of the penalty (1 / lambda in the paper); more is more robust")
    ] = 6.0
    step: Annotated[
        float | None,
        Field(gt=0, description="length of an inner step in units of the inputs; null for 2.5 eps / steps"),
    ] = None
    steps: Annotated[int, Field(ge=1, description="inner gradient steps per local step")] = 7
    norm: BallNorm = "linf"
    bounds: Bounds = (0.0, 1.0)
    ramp: Ramp = 0
    share: Share = 1.0

    def problems(self, setting: Setting) -> list[tuple[str, str]]:
        """See `Defense.problems`."""
        found = list(super().problems(setting))
        if setting.task != "classification":
            found.append(("its penalty compares distributions over classes, and there are none", "use pgd-at instead"))
        return found

    @property
    def inner(self) -> InnerAttack:
        """The ascent on the divergence, at its full size."""
        length = 2.5 * self.eps / self.steps if self.step is None else self.step
        low, high = self.bounds
        return InnerAttack(Box(self.eps, self.norm, (low, high)), length, self.steps, random_start=False)

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return TradesStep(step, self.inner, self.beta, self.ramp)


@dataclass(frozen=True)
class TradesStep:
    """The wrapped step on clean inputs, and the gradient of the penalty (picklable).

    Attributes:
        step: what it wraps.
        inner: the ascent at its full size.
        beta: weight of the penalty.
        ramp: rounds over which the ascent grows.
    """

    step: Step
    inner: InnerAttack
    beta: float
    ramp: int = 0

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        if not self.beta:
            return self.step(lanes, x, y)
        perturbed = self.farthest(lanes, x)
        clean = lanes.outputs(x, train=True)
        penalty = divergence(clean, lanes.outputs(perturbed, train=True)).mean(-1).sum()
        if self.step is gradient_step:
            loss = lanes.model.loss(clean, y).mean(-1).sum() + self.beta * penalty
            return torch.autograd.grad(loss, lanes.parameters)
        gradients = torch.autograd.grad(penalty, lanes.parameters)
        return weighted((self.step(lanes, x, y), gradients), (1.0, self.beta))

    def farthest(self, lanes: Lanes, x: Tensor) -> Tensor:
        """Inputs ``(l, b, *shape)`` in the box on which the answers differ most from those on ``x``."""
        attack = self.inner.scaled(grown(self.ramp, lanes.round))
        with torch.no_grad():
            unit = lanes.uniform(tuple(x.shape[1:]), salt=_SALT)
            start = x + START * torch.special.ndtri(unit.clamp(1e-7, 1 - 1e-7).double()).to(x.dtype)
            clean = lanes.outputs(x, train=False)
        return attack.climb(start, x, lambda inputs: divergence(clean, lanes.outputs(inputs, train=False)))


def divergence(clean: Tensor, perturbed: Tensor) -> Tensor:
    """``KL(p || q)`` in nats of the distributions that two tensors of logits ``(*, C)`` stand for, ``(*,)``."""
    log_p, log_q = clean.log_softmax(-1), perturbed.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
