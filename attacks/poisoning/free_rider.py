"""Free riders: clients that want the model and send something that only looks like an update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .texts import MODEL_POISONING, Fraction, model_threat

Disguise = Literal["none", "noise", "delta", "noisy-delta"]


def disguised(
    previous: Tensor | None, *, disguise: Disguise, size: int, round_index: int, decay: float, noise: float,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """What one free rider sends, ``(size,)`` fp32 on the CPU.

    Args:
        previous: ``(size,)`` the difference of the last two global models that it was sent; ``None`` before it has two.
        disguise: ``none``: zeros, which is the model sent back (Fraboni et al. 2021, section 3.1). ``noise``: Gaussian
            noise of standard deviation ``noise * std(previous) * t^-decay`` (section 3.2). ``delta``: the difference
            itself (Lin et al. 2019, delta weights). ``noisy-delta``: both (Lin et al. 2019, advanced delta weights).
        size: parameters of the model.
        round_index: ``t - 1``.
        decay: the paper's gamma.
        noise: standard deviation of the noise, in that of the difference's coordinates.
        generator: of the noise.
    """
    if previous is None or disguise == "none":
        return torch.zeros(size)
    base = previous.cpu() if disguise in ("delta", "noisy-delta") else torch.zeros(size)
    if disguise == "delta":
        return base.clone()
    spread = noise * float(previous.double().std(correction=0)) * math.pow(round_index + 1, -decay)
    return base + spread * torch.randn(size, generator=generator)


@dataclass(frozen=True, kw_only=True)
class FreeRider(Adversary):
    """Controlled clients do not train; they send something that takes an update's shape.

    Until they have been sent two global models they know no update, and send zeros. What the judge measures is what the
    others lose by them, which is little; a detector's true positive rate says whether they are found.
    """

    fraction: Fraction = 0.2
    disguise: Annotated[
        Disguise,
        Field(description="Zeros, noise that fades, the last change of the global model, or that with noise"),
    ] = "noisy-delta"
    noise: Annotated[
        float, Field(gt=0.0, description="Standard deviation of the noise, in that of the last change of the model")
    ] = 1.0
    decay: Annotated[float, Field(ge=0.0, description="Power of the round by which the noise fades")] = 1.0

    name: ClassVar[str] = "free-rider"
    summary: ClassVar[str] = "Takes part without training: sends zeros, noise or the model's last change as an update"
    family: ClassVar[str] = "model poisoning"
    paper: ClassVar[Paper | None] = Paper(
        title="Free-rider Attacks on Model Aggregation in Federated Learning",
        authors="Fraboni, Vidal, Lorenzi",
        venue="AISTATS 2021",
        where="section 3; the difference of models is that of Lin, Du, Liu 2019, section 3",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_POISONING
    threat: ClassVar[ThreatModel] = model_threat(
        "Some participants take the shared model and contribute nothing to it", may_be_omniscient=False
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "none for the adversary; the simulation trains it all the same"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """One disguise per controlled client, ``(k, d)``; their training is not looked at."""
        earlier = coalition.state.get("model before")
        previous = None if earlier is None else coalition.model - earlier
        coalition.state["model before"] = coalition.model.clone()
        rows = [
            disguised(
                previous,
                disguise=self.disguise,
                size=coalition.model.numel(),
                round_index=coalition.round,
                decay=self.decay,
                noise=self.noise,
                generator=generator,
            )
            for _ in coalition.clients
        ]
        return torch.stack(rows).to(coalition.own)
