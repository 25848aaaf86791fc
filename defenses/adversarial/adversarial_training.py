"""What the kinds of adversarial training have in common: what they promise, ask of a federation and need per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.ball import Norm
from fedsec.models.lanes import Lanes, Step, gradient_step
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, Setting
from fedsec.threat import Taxonomy

Size = Annotated[
    float, Field(ge=0, description="size of the perturbation trained against, in units of the dataset's inputs")
]
Bounds = Annotated[
    tuple[float, float], Field(description="lowest and highest value of an input, as the dataset states them")
]
BallNorm = Annotated[Norm, Field(description="norm in which the size is measured: linf or l2")]
Ramp = Annotated[
    int, Field(ge=0, description="rounds before the size is eps; until then it grows by the same part each round")
]

Share = Annotated[
    float,
    Field(ge=0, le=1, description="share of the clients that train so, drawn from the seed; the others train plainly"),
]


class AdversarialTraining(Defense):
    """Local steps on inputs that are altered against the client's own model.

    A controlled client does not run it, and it protects inputs at deployment only: what updates say of training data,
    and what poisoned updates do, is as before. With a ``share`` below 1 the federation is mixed: which clients train
    so is drawn from its seed once, the same for every defense of the stack, those of a smaller share among those of
    a larger one; the steps of the others are those of plain training. It acts on gradients before the update
    exists, so whatever is done to updates (clipping, noise, encryption, any rule) goes with it.
    """

    family: ClassVar[str] = "adversarial training"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (Taxonomy("mitre-atlas-5.6", "AML.M0003", "Model Hardening", "exact"),)
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="how the released model reads inputs that were altered by at most eps",
        against="white-box evasion in the trained norm; measured, not certified",
        assuming="clients are honest, and the altered inputs stay within the trained size and norm",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN, Kind.SEALED, Kind.MASKED})

    bounds: Bounds

    @property
    def enforcement(self) -> EnforcedBy:
        """Only honest clients train so."""
        return EnforcedBy.CLIENT

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """See `Defense.problems`."""
        if setting.bounds is None:
            return (
                (
                    "the inputs are tokens, which have no neighbourhood to be perturbed in",
                    f"leave {self.name} out, or choose a dataset of images",
                ),
            )
        if not all(math.isclose(a, b) for a, b in zip(self.bounds, setting.bounds, strict=True)):
            return (
                (
                    f"its bounds are {tuple(self.bounds)} and the dataset's are {setting.bounds}",
                    f"write bounds: [{setting.bounds[0]}, {setting.bounds[1]}] for {self.name}",
                ),
            )
        return ()


def grown(ramp: int, round_index: int) -> float:
    """The share of the full size in a round: equal parts over ``ramp`` rounds and the whole from then on."""
    return min(1.0, (round_index + 1) / (ramp + 1))


def both_gradients(step: Step, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The step's gradients, and that of each example's loss in its input, in train mode.

    One backward pass gives both if the step is the plain one; a step that something else wraps takes its own passes,
    and then a dropout mask and the batch statistics are the same, so the second gradient is that of the same function.

    Args:
        step: the wrapped step.
        lanes: the models.
        x: ``(l, b, *shape)`` inputs.
        y: ``(l, b, *)`` targets.

    Returns:
        One ``(l, *shape)`` per trainable slot; and ``(l, b, *shape)`` up to a positive factor, the batch size.
    """
    leaf = x.detach().requires_grad_()
    if step is not gradient_step:
        gradients = step(lanes, x, y)
        (uphill,) = torch.autograd.grad(lanes.losses(leaf, y, train=True).sum(), leaf)
        return gradients, uphill
    loss = lanes.losses(leaf, y, train=True).mean(-1).sum()
    *of_parameters, uphill = torch.autograd.grad(loss, (*lanes.parameters, leaf))
    return tuple(of_parameters), uphill


def weighted(gradients: Sequence[tuple[Tensor, ...]], weights: Sequence[float]) -> tuple[Tensor, ...]:
    """The weighted sum of several gradients."""
    return tuple(
        sum((weight * part for weight, part in zip(weights[1:], parts[1:], strict=True)), weights[0] * parts[0])
        for parts in zip(*gradients, strict=True)
    )
