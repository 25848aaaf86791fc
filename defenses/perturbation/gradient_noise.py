"""Noise on updates without clipping and without accounting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..expect import plain


def noise(count: int, std: float, distribution: str, source: torch.Generator) -> Tensor:
    """Independent numbers of mean 0, ``(count,)`` float64.

    Args:
        count: how many.
        std: standard deviation.
        distribution: ``gaussian`` or ``laplace``.
        source: draws them.
    """
    if distribution == "gaussian":
        return std * torch.randn(count, generator=source, dtype=torch.float64)
    centred = torch.rand(count, generator=source, dtype=torch.float64) - 0.5
    # the largest magnitude of a draw is half, whose logarithm would be that of 0
    inside = (1 - 2 * centred.abs()).clamp_min(2.0**-60)
    return -std / math.sqrt(2) * centred.sign() * inside.log()


@dataclass(frozen=True, kw_only=True)
class GradientNoise(Defense):
    """Add independent noise to every coordinate of each update, at the client.

    Updates are not clipped, so one client's influence is unbounded and no epsilon is finite: this is no differential
    privacy, whatever the noise is called elsewhere. It is here because it is often used, to be measured. `dp-local`
    is the same with a bound and an account. Float buffers get noise too, so batch norm breaks soon.
    """

    name: ClassVar[str] = "gradient-noise"
    summary: ClassVar[str] = "Adds noise to each update without clipping and without accounting: no epsilon"
    family: ClassVar[str] = "perturbation"
    paper: ClassVar[Paper | None] = Paper(
        title="Deep Leakage from Gradients",
        authors="Zhu, Liu, Han",
        venue="NeurIPS 2019",
        where="section 5.1, noisy gradients (here noise on updates)",
    )
    cost: ClassVar[str] = "one draw per coordinate; accuracy"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="nothing that can be stated: it blurs an update by a noise that nothing calibrates",
        against="attacks that need more precision than the noise leaves",
        assuming="honest clients add it; noise averages out over rounds and clients, and large updates stand out of it",
    )
    perturbs: ClassVar[bool] = True

    noise_std: Annotated[
        float, Field(gt=0, description="standard deviation of the noise on each coordinate (units of the parameters)")
    ] = 0.001
    distribution: Annotated[Literal["gaussian", "laplace"], Field(description="of the noise")] = "gaussian"

    @property
    def enforcement(self) -> EnforcedBy:
        """The client."""
        return EnforcedBy.CLIENT

    def problems(self, setting: Setting) -> list[tuple[str, str]]:
        """Batch norm."""
        if not setting.has_batch_norm:
            return []
        return [
            (
                "batch-norm statistics travel in the update: noise makes running variances negative",
                "use a model with group norm, and compare with the same model without noise",
            )
        ]

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """The noise, and that it has no epsilon."""
        return {
            "noise_std": self.noise_std,
            "noise_at": "each upload",
            "estimator": "unbiased",
            "privacy": "none claimed: without a bound on updates no epsilon is finite",
        }

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """The update plus noise; each client draws its own."""
        received = plain(update, self.name)
        width = received.values.shape[1]
        rows = [noise(width, self.noise_std, self.distribution, context.generator("noise", c)) for c in context.clients]
        context.report["noise_std"] = self.noise_std
        drawn = torch.stack(rows) if rows else received.values.new_zeros(0, width)
        return Plain(received.values + drawn.to(received.values), received.weights)


__all__ = ["GradientNoise", "noise"]
