"""Trap weights: rows that few examples activate, so that what is left of a batch in a row is often one example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.evidence import Reconstructions
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Planted
from fedsec.protocol.view import View
from fedsec.threat import Knowledge, Paper

from ..inversion.layers import first_layer
from ..inversion.linear_layer import LinearLayerInversion
from ..inversion.victims import choose
from .base import Malicious, gathered, planting, real_inputs
from .imprint import Rows, in_front, in_place


def trap_rows(rows: int, size: int, *, deviation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The two halves of each row before scaling (Boenisch et al. 2023, algorithm 1).

    Args:
        rows: ``k``.
        size: ``f`` inputs of a row.
        deviation: of the normal distribution whose absolute values are drawn.
        generator: of values and places.

    Returns:
        Negative parts ``(k, f)``, zero in a random half of each row, and positive parts ``(k, f)``, zero in the other
        half; the positive half has the values of the negative one in another order.
    """
    half = size // 2
    drawn = deviation * torch.randn(rows, half, generator=generator, dtype=torch.float64).abs()
    shuffled = drawn.gather(1, torch.rand(rows, half, generator=generator).argsort(1))
    places = torch.rand(rows, size, generator=generator).argsort(1)
    negative = torch.zeros(rows, size, dtype=torch.float64).scatter(1, places[:, :half], -drawn)
    positive = torch.zeros(rows, size, dtype=torch.float64).scatter(1, places[:, half : 2 * half], shuffled)
    return negative, positive


def calibrated_scale(negative: Tensor, positive: Tensor, unit: Tensor, *, active: float) -> float:
    """The factor of the positive halves at which ``active`` of all (row, example) pairs are active.

    A pair is active where ``s (positive x) > |negative x|``, so the factor is a quantile of ratios.

    Args:
        negative: ``(k, f)`` from `trap_rows`.
        positive: ``(k, f)``.
        unit: ``(m, f)`` public examples in [0, 1].
        active: share in (0, 1).
    """
    ratio = (-(unit.double() @ negative.T) / (unit.double() @ positive.T).clamp_min(1e-12)).flatten()
    place = max(1, min(len(ratio), round(active * len(ratio))))
    return float(ratio.kthvalue(place).values)


@dataclass(frozen=True, kw_only=True)
class TrapWeights(Malicious):
    """Boenisch et al. 2023, "When the curious abandon honesty".

    Each row is negative in a random half of its inputs and positive in the other, the positive half scaled down until
    few examples activate it. In the model's own first layer nothing but values changes. In front of convolutions the
    paper lets the input through identity kernels; here a block is put in front instead, which changes the architecture
    and is declared. Exact after one local step of plain SGD on the whole shard; several steps decay.
    """

    name: ClassVar[str] = "trap-weights"
    summary: ClassVar[str] = "Plants first-layer rows that few examples activate and reads the lone ones off the update"
    paper: ClassVar[Paper | None] = Paper(
        title="When the Curious Abandon Honesty: Federated Learning Is Not Private",
        authors="Boenisch, Dziedzic, Schuster, Shahin Shamsabadi, Shumailov, Papernot",
        venue="IEEE EuroS&P 2023",
        where="section 5, algorithm 1",
    )
    threat = planting(
        "A malicious server sends weights under which most examples leave no trace and the others stand alone.",
        Knowledge.COUNTS,
        Knowledge.AUXILIARY_DATA,
    )
    cost: ClassVar[str] = "one comparison of all rows of a layer per victim"

    rows: Annotated[int, Field(ge=2, description="Rows planted; at most the first layer's units where it has them")] = (
        512
    )
    placement: Annotated[
        Literal["auto", "block", "first-layer"],
        Field(
            description="block: in front of the model, which changes the architecture; first-layer: all of the model's"
            " own first rows; auto: those if it is a linear layer and a ReLU"
        ),
    ] = "auto"
    active: Annotated[
        float, Field(gt=0, lt=1, description="Share of public examples that activate a row; sets its scale")
    ] = 0.02
    deviation: Annotated[float, Field(gt=0, description="Of the normal distribution that weights are drawn from")] = 0.5
    gain: Annotated[float, Field(gt=0, description="Length of the columns behind the rows of a block")] = 1.0

    def traps(self, count: int, facts: PublicFacts, *, generator: torch.Generator) -> Rows:
        """``count`` rows on the flattened raw input."""
        low, high = real_inputs(facts)
        unit = (facts.auxiliary.x.flatten(1).cpu() - low) / (high - low)
        negative, positive = trap_rows(count, unit.shape[1], deviation=self.deviation, generator=generator)
        factor = calibrated_scale(negative, positive, unit, active=self.active)
        weight = (negative + factor * positive) / (high - low)
        return weight.float(), (-low * weight.sum(1)).float()

    def plant(self, model: Tensor, facts: PublicFacts, *, generator: torch.Generator) -> Planted:
        """See `MaliciousServer.plant`.

        Raises:
            NotApplicable: the inputs are tokens, or the first layer cannot hold the rows and has to.
        """
        real_inputs(facts)
        shape = facts.info.input_shape
        if self.placement != "block":
            try:
                units = first_layer(facts.model, model, shape).slots.weight.shape[0]
                rows = self.traps(min(units, self.rows), facts, generator=generator)
                return in_place(facts.model, model, shape, rows, gain=None, generator=generator)
            except NotApplicable:
                if self.placement == "first-layer":
                    raise
        rows = self.traps(self.rows, facts, generator=generator)
        return in_front(facts.model, model, rows, gain=self.gain, step=None, equal=False, generator=generator)

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> Reconstructions:
        """Read the distinct inputs of the rows of every upload."""
        real_inputs(facts)
        victims = choose(view, facts, targets=len(view.events))
        reader = LinearLayerInversion(max_examples=max(victim.examples for victim in victims))
        found = []
        for victim in victims:
            inputs, sure = reader.read(victim, victim.examples, facts)
            real = sure > -1
            found.append((inputs.flatten(1)[real], sure[real]))
        return gathered(victims, found, facts)
