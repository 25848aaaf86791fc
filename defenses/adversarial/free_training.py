"""Free adversarial training: one backward pass moves the model and the perturbation, on each batch several times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.ball import project, steepest
from fedsec.models.lanes import Lanes, Step
from fedsec.protocol.stage import Setting
from fedsec.threat import Paper

from .adversarial_training import AdversarialTraining, BallNorm, Bounds, Ramp, Share, Size, both_gradients, grown
from .inner_attack import Box

_KEPT = "free-at"


@dataclass(frozen=True, kw_only=True)
class FreeTraining(AdversarialTraining):
    """Free-m: every batch is trained on ``replays`` times in a row, and each backward pass also moves the perturbation.

    A client takes as many local steps as without it, so it reads one in ``replays`` of the batches: its epochs are
    divided by m, as the source divides them. The perturbation belongs to the place in the batch: it is zero when
    the client starts a round and is carried from batch to batch, never reset; a short last batch uses its first
    rows. It stays in the ball, and what is trained on is put into the bounds first. It is always one step behind
    the model, whose gradient moved it. With one replay and ``eps`` 0 it is plain training.

    A client with fewer batches than ``replays`` trains on its first batch only.
    """

    name: ClassVar[str] = "free-at"
    summary: ClassVar[str] = "Trains each client several times on every batch, which the same passes perturb (free)"
    paper: ClassVar[Paper | None] = Paper(
        title="Adversarial Training for Free!",
        authors="Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein",
        venue="NeurIPS 2019",
        where="algorithm 1",
    )
    cost: ClassVar[str] = "the input gradient of each local step; a part of the data in each round"

    eps: Size = 0.1
    replays: Annotated[int, Field(ge=1, description="consecutive local steps on each batch, m in the paper")] = 8
    step: Annotated[
        float, Field(gt=0, description="length of a step of the perturbation as a multiple of eps; the paper's is 1")
    ] = 1.0
    norm: BallNorm = "linf"
    bounds: Bounds = (0.0, 1.0)
    ramp: Ramp = 0
    share: Share = 1.0

    def problems(self, setting: Setting) -> list[tuple[str, str]]:
        """See `Defense.problems`."""
        found = list(super().problems(setting))
        if setting.local_steps < 2:
            found.append(
                (
                    "its perturbation is zero at a client's first local step of a round, and every client takes one",
                    "give clients more local steps (epochs, or a smaller batch_size), or use fgsm-at",
                )
            )
        return found

    def local(self, step: Step) -> Step:
        """See `Defense.local`."""
        low, high = self.bounds
        return FreeStep(step, Box(self.eps, self.norm, (low, high)), self.step, self.ramp)


@dataclass(frozen=True)
class FreeStep:
    """The wrapped step on inputs with the carried perturbation, which the same pass moves (picklable).

    Attributes:
        step: what it wraps.
        box: of the inputs, at its full size.
        length: of a step, in multiples of the size.
        ramp: rounds over which the size grows.
    """

    step: Step
    box: Box
    length: float
    ramp: int = 0

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `fedsec.models.lanes.Step`."""
        eps = self.box.eps * grown(self.ramp, lanes.round)
        delta = lanes.recall(_KEPT, x)
        gradients, uphill = both_gradients(self.step, lanes, (x + delta).clamp(*self.box.bounds), y)
        with torch.no_grad():
            moved = delta + self.length * eps * steepest(uphill, self.box.norm, lead=2)
            lanes.keep(_KEPT, project(moved, eps, self.box.norm, lead=2))
        return gradients
