"""PGD backdoor: local training that is projected onto a ball around the global model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.drill import Drill
from fedsec.protocol.facts import PublicFacts
from fedsec.threat import Paper, ThreatModel

from .bounding import within
from .model import ModelBackdoor
from .texts import model_threat


@dataclass(frozen=True, kw_only=True)
class PGDBackdoor(ModelBackdoor):
    """PGD attack of Wang et al.: the model is projected onto an L2 ball around the global one after each epoch.

    Without a radius the ball is as large as the update that the client's own clean data give, which the client
    computes first: what it sends is then never longer than what it would have sent as an honest client.
    The paper projects after every few steps; here it is after every epoch, for any local optimizer, whose state
    starts anew with the epoch.
    """

    boost: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="Factor on its updates; empty: n / (server rate x attackers), which replaces the global model",
        ),
    ] = 1.0
    radius: Annotated[
        float | None, Field(gt=0.0, description="L2 radius of the ball; empty: the norm of its own honest update")
    ] = None

    name: ClassVar[str] = "pgd-backdoor"
    summary: ClassVar[str] = "Trains a backdoor inside a ball around the global model, so that no norm gives it away"
    paper: ClassVar[Paper | None] = Paper(
        title="Attack of the Tails: Yes, You Really Can Backdoor Federated Learning",
        authors="Wang, Sreenivasan, Rajput, Vishwakarma, Agarwal, Sohn, Lee, Papailiopoulos",
        venue="NeurIPS 2020",
        where="section 3 (PGD attack, with and without model replacement)",
    )
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants teach a backdoor by updates that are no larger than anybody's"
    )
    cost: ClassVar[str] = "the attacker's own training, and without a radius an honest one beside it"

    def train(self, drill: Drill, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Updates inside the ball, ``(k, d)``."""
        local = self.training(drill.local)
        radius = self._radius(drill)
        offset = torch.zeros(len(drill.clients), drill.model.numel()).to(drill.model)
        for epoch in range(local.epochs):
            one = dataclasses.replace(local, epochs=1)
            moved = drill.train(drill.model + offset, local=one, attempt=epoch)
            offset = within(offset + moved, radius)
        return offset

    def _radius(self, drill: Drill) -> Tensor:
        if self.radius is not None:
            return torch.full((len(drill.clients),), self.radius, device=drill.model.device)
        honest: Tensor = torch.linalg.vector_norm(drill.train(shards=drill.clean).double(), dim=1)
        return honest
