"""Constrain-and-scale: the loss asks for a model that is like the global one, and the update is scaled to a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.models.flat import Layout
from fedsec.models.lanes import Lanes, Step
from fedsec.protocol.drill import Drill, Wrap
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, ThreatModel

from .model import ModelBackdoor
from .texts import model_threat

Distance = Literal["l2", "cosine"]


def anomaly(models: Tensor, reference: Tensor, distance: Distance) -> Tensor:
    """How far models are from a reference, differentiable: ``(l, d)`` and ``(d,)`` to ``(l,)``.

    ``l2`` is the norm of the difference (whose gradient at the reference itself is 0); ``cosine`` is 1 minus the
    cosine of the two parameter vectors.
    """
    if distance == "l2":
        away: Tensor = torch.linalg.vector_norm(models - reference, dim=1)
        return away
    return 1.0 - torch.nn.functional.cosine_similarity(models, reference.unsqueeze(0), dim=1)


def constrained(model: Tensor, layout: Layout, *, alpha: float, distance: Distance) -> Wrap:
    """Makes a step descend ``alpha loss + (1 - alpha) anomaly`` instead of the loss.

    The gradient of the anomaly is autograd's, with respect to the parameters that are being trained.

    Args:
        model: ``(d,)`` the global model.
        layout: of its parameters.
        alpha: weight of the loss.
        distance: see `anomaly`.
    """
    slots = layout.parameters
    reference = model[: layout.trainable]

    def wrap(step: Step) -> Step:
        def gradients(lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            wanted = step(lanes, x, y)
            with torch.enable_grad():
                leaves = [parameter.detach().clone().requires_grad_() for parameter in lanes.parameters]
                flat = torch.cat([leaf.flatten(1) for leaf in leaves], dim=1)
                pulled = torch.autograd.grad(anomaly(flat, reference, distance).sum(), leaves)
            return tuple(alpha * a + (1.0 - alpha) * b for a, b in zip(wanted, pulled, strict=True))

        return gradients

    if sum(slot.stop - slot.start for slot in slots) != len(reference):
        raise ValueError("the trainable coordinates do not come first")
    return wrap


@dataclass(frozen=True, kw_only=True)
class ConstrainAndScale(ModelBackdoor):
    """Constrain-and-scale of Bagdasaryan et al.: evades a detector of anomalous models by training against it.

    The loss is ``alpha L_class + (1 - alpha) L_ano`` with the distance to the global model as ``L_ano``; the update
    is then scaled up as far as ``bound`` lets it, and no further than replaces the model. The paper's algorithm
    also stops when the loss is small and lowers the learning rate on the way; here epochs and rate are fixed.
    """

    alpha: Annotated[
        float, Field(gt=0.0, le=1.0, description="Weight of the loss; the rest is the weight of the distance")
    ] = 0.5
    distance: Annotated[
        Distance, Field(description="Distance to the global model: norm of the difference, or 1 minus the cosine")
    ] = "l2"

    name: ClassVar[str] = "constrain-and-scale"
    summary: ClassVar[str] = "Trains a backdoor that stays close to the global model, then scales it to a bound"
    paper: ClassVar[Paper | None] = Paper(
        title="How To Backdoor Federated Learning",
        authors="Bagdasaryan, Veit, Hua, Estrin, Shmatikov",
        venue="AISTATS 2020",
        where="section 3.4, algorithm 1 (constrain and scale, train and scale)",
    )
    threat: ClassVar[ThreatModel] = model_threat(
        "A participant trains a backdoor that looks like an ordinary update, and sends as much of it as passes"
    )
    cost: ClassVar[str] = "the attacker's own training"

    def train(self, drill: Drill, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Updates of training under the constraint, ``(k, d)``."""
        wrap = constrained(drill.model, drill.layout, alpha=self.alpha, distance=self.distance)
        return drill.train(local=self.training(drill.local), wrap=wrap)
