"""Neurotoxin: a backdoor in the coordinates that honest updates hardly move, so that they do not wash it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

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


def quiet_coordinates(change: Tensor, top: float) -> Tensor:
    """All coordinates but the share ``top`` that moved most in absolute value.

    Args:
        change: ``(d,)`` what the server's last step changed.
        top: share in [0, 1) to leave out; rounded to a number of coordinates.

    Returns:
        ``(d,)`` bool.
    """
    quiet = torch.ones(len(change), dtype=torch.bool, device=change.device)
    quiet[change.abs().topk(round(top * len(change))).indices] = False
    return quiet


def masked(quiet: Tensor, layout: Layout) -> Wrap:
    """Makes a step leave the coordinates that are not ``quiet (trainable,)`` where they are."""
    masks = tuple(quiet[slot.start : slot.stop].view(slot.shape) for slot in layout.parameters)

    def wrap(step: Step) -> Step:
        def gradients(lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            return tuple(gradient * mask for gradient, mask in zip(step(lanes, x, y), masks, strict=True))

        return gradients

    return wrap


@dataclass(frozen=True, kw_only=True)
class Neurotoxin(ModelBackdoor):
    """Neurotoxin of Zhang et al.: projects the attacker's gradients onto coordinates of little use to others.

    The paper ranks coordinates by the last aggregated gradient. Here that is the difference of the two global models
    that the coalition saw last, which span several rounds if none of its clients was drawn in between. While it has
    seen one only, it trains without a mask. Each step is masked, and the update once more, because weight decay
    moves every coordinate. With ``top: 0`` it is the plain backdoor, for a comparison at equal norm.
    """

    boost: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="Factor on its updates; empty: n / (server rate x attackers), which replaces the global model",
        ),
    ] = 1.0
    top: Annotated[
        float, Field(ge=0.0, lt=1.0, description="Share of coordinates that it leaves alone: those that moved most")
    ] = 0.05

    name: ClassVar[str] = "neurotoxin"
    summary: ClassVar[str] = "Hides a backdoor in coordinates that honest updates hardly move, so that it lasts"
    paper: ClassVar[Paper | None] = Paper(
        title="Neurotoxin: Durable Backdoors in Federated Learning",
        authors="Zhang, Panda, Song, Yang, Mahoney, Mittal, Ramchandran, Gonzalez",
        venue="ICML 2022",
        where="section 3.2, algorithm 1",
    )
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants hide a backdoor where nobody else's training touches it, so that it outlives the attack"
    )
    cost: ClassVar[str] = "the attacker's own training"

    def train(self, drill: Drill, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Updates that leave the busiest coordinates alone, ``(k, d)``."""
        local = self.training(drill.local)
        if drill.previous is None or not self.top:
            return drill.train(local=local)
        cut = drill.layout.trainable
        quiet = quiet_coordinates((drill.model - drill.previous)[:cut], self.top)
        updates = drill.train(local=local, wrap=masked(quiet, drill.layout))
        updates[:, :cut] *= quiet
        return updates
