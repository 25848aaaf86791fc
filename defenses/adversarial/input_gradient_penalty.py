"""Training with a penalty on how steep the loss is in the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.ball import steepest
from fedsec.models.lanes import Lanes, Step, gradient_step
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, Setting
from fedsec.threat import Paper, Taxonomy

from .adversarial_training import Share, weighted


@dataclass(frozen=True, kw_only=True)
class InputGradientPenalty(Defense):
    """``loss(x, y) + beta |d loss / dx|^2`` for each example, averaged over the batch.

    The gradient is that of the summed losses, which is each example's own whatever the batch; that of their mean
    would scale the penalty by the square of the batch size. ``double-backpropagation`` differentiates through the
    gradient. ``finite-differences`` replaces the length of the gradient by the slope of the loss over a step of
    length ``h`` along it, the step held fixed, which needs no second derivative. A network of ReLUs has no
    curvature in its inputs almost everywhere; the penalty acts on its weights all the same. Under batch norm an
    example's loss depends on its batch, and its gradient here is that of all losses of the batch.
    """

    name: ClassVar[str] = "input-gradient-penalty"
    summary: ClassVar[str] = "Trains each client with a penalty on the gradient of the loss in the inputs"
    family: ClassVar[str] = "adversarial training"
    paper: ClassVar[Paper | None] = Paper(
        title="Scaleable Input Gradient Regularization for Adversarial Robustness",
        authors="Finlay, Oberman",
        venue="Machine Learning with Applications 3, 2021",
        where="finite differences; double backpropagation is of Drucker and LeCun 1992",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (Taxonomy("mitre-atlas-5.6", "AML.M0003", "Model Hardening", "exact"),)
    cost: ClassVar[str] = "one more forward and backward pass per local step, or a second derivative"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="how the released model reads inputs that were altered a little",
        against="white-box evasion; measured, not certified",
        assuming="clients are honest, and the loss is nearly linear at the size of the alterations",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN, Kind.SEALED, Kind.MASKED})

    beta: Annotated[
        float, Field(ge=0, description="weight of the squared length, in units of the loss times inputs squared")
    ] = 0.1
    method: Annotated[
        Literal["double-backpropagation", "finite-differences"], Field(description="how the penalty is differentiated")
    ] = "double-backpropagation"
    h: Annotated[
        float, Field(gt=0, description="length of the step of the finite differences, in units of the inputs")
    ] = 0.01
    share: Share = 1.0

    @property
    def enforcement(self) -> EnforcedBy:
        """Only honest clients train so."""
        return EnforcedBy.CLIENT

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """See `Defense.problems`."""
        if setting.bounds is None:
            return (
                (
                    "the inputs are tokens, in which a loss has no gradient",
                    f"leave {self.name} out, or choose a dataset of images",
                ),
            )
        return ()

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        return PenalisedStep(step, self.beta, None if self.method == "double-backpropagation" else self.h)


@dataclass(frozen=True)
class PenalisedStep:
    """The wrapped step, and the gradient of the penalty (picklable).

    Attributes:
        step: what it wraps.
        beta: weight of the penalty.
        h: length of the step of finite differences; ``None`` for double backpropagation.
    """

    step: Step
    beta: float
    h: float | None

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        if not self.beta:
            return self.step(lanes, x, y)
        losses, steepness = losses_and_steepness(lanes, x, y, h=self.h)
        if self.step is gradient_step:
            return torch.autograd.grad((losses + self.beta * steepness).mean(-1).sum(), lanes.parameters)
        # the bias of a last linear layer, as an example, may not matter to the steepness at all
        found = torch.autograd.grad(steepness.mean(-1).sum(), lanes.parameters, allow_unused=True)
        of_penalty = tuple(
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(lanes.parameters, found, strict=True)
        )
        return weighted((self.step(lanes, x, y), of_penalty), (1.0, self.beta))


def losses_and_steepness(lanes: Lanes, x: Tensor, y: Tensor, *, h: float | None) -> tuple[Tensor, Tensor]:
    """Loss and squared length of its input gradient per example, both ``(l, b)``, differentiable in the parameters.

    Args:
        lanes: the models, in train mode.
        x: ``(l, b, *shape)`` inputs.
        y: ``(l, b, *)`` targets.
        h: length of the step of finite differences, the input gradient's direction held fixed; ``None`` for exact ones.
    """
    leaf = x.detach().requires_grad_()
    losses = lanes.losses(leaf, y, train=True)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf, create_graph=h is None, retain_graph=True)
    if h is None:
        return losses, gradient.flatten(2).square().sum(-1)
    with torch.no_grad():
        beyond = x + h * steepest(gradient, "l2", lead=2)
    return losses, ((lanes.losses(beyond, y, train=True) - losses) / h).square()
