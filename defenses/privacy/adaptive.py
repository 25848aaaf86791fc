"""Client-level differential privacy whose clipping bound follows a quantile of the norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import RoundContext, Setting
from fedsec.threat import Paper

from ..clipping.norms import clip_norms
from ..clipping.plugins import tally
from ..expect import plain
from .client_level import ClientLevelDP, noisy_mean

BITS = 20.0
"""The noise of the count is the expected cohort over this (Andrew et al. 2021, section 3.1)."""


def noise_of_updates(noise_multiplier: float, count_noise: float) -> float:
    """The multiplier for the updates, so that updates and count together spend what ``noise_multiplier`` says.

    The pair is one Gaussian mechanism: updates of sensitivity 1 with noise ``z_u``, and a count of bits shifted to
    ``+-1/2``, of sensitivity 1/2, with noise ``count_noise``. Its multiplier ``z`` obeys
    ``z^-2 = z_u^-2 + (2 count_noise)^-2`` (Andrew et al. 2021, theorem 1).

    Raises:
        ValueError: the count alone spends more.
    """
    left = noise_multiplier**-2 - (2 * count_noise) ** -2
    if left <= 0:
        raise ValueError(
            f"noise of {count_noise:g} in the count of unclipped updates spends more than a noise multiplier of "
            f"{noise_multiplier:g} allows"
        )
    return 1 / math.sqrt(left)


def next_clip_norm(clip_norm: float, unclipped: float, *, quantile: float, rate: float) -> float:
    """``C exp(-rate (b - quantile))``, where ``b`` is the share of updates that were *not* clipped.

    If too many fit, the bound shrinks; with the share of clipped ones in its place it would run away.
    """
    return clip_norm * math.exp(-rate * (unclipped - quantile))


@dataclass(frozen=True, kw_only=True)
class AdaptiveClientLevelDP(ClientLevelDP):
    """`ClientLevelDP` whose clipping bound moves towards a quantile of the norms of the updates.

    Every client also says by one bit whether its update fitted. Bits are shifted to ``+-1/2``, summed and noised as the
    updates are, and divided by the expected cohort. Updates are noised for the bound that clipped them; the new one
    holds from the next round on. The bound is public: the budget covers it, because updates get
    ``z_u = (z^-2 - (2 s)^-2)^(-1/2)`` where ``z`` is accounted and ``s`` is the noise of the count.

    Bits travel by the same way as the updates; their bytes are not counted here. Controlled clients send none.
    """

    name: ClassVar[str] = "dp-client-adaptive"
    summary: ClassVar[str] = "DP-FedAvg whose clipping bound follows a quantile of the norms of the updates"
    family: ClassVar[str] = "differential privacy"
    paper: ClassVar[Paper | None] = Paper(
        title="Differentially Private Learning with Adaptive Clipping",
        authors="Andrew, Thakkar, McMahan, Ramaswamy",
        venue="NeurIPS 2021",
        where="algorithm 1, geometric updates, fixed denominator, without server momentum",
    )
    cost: ClassVar[str] = "accuracy, the more the fewer clients; one bit per client"

    clip_norm: Annotated[
        float, Field(gt=0, description="bound on the L2 norm of an update in the first round (units of the parameters)")
    ] = 0.1
    quantile: Annotated[
        float, Field(gt=0, lt=1, description="share of the updates that should fit under the bound")
    ] = 0.5
    rate: Annotated[float, Field(gt=0, description="how fast the logarithm of the bound moves per round")] = 0.2
    count_noise: Annotated[
        float | None,
        Field(gt=0, description="standard deviation of the noise in the count; by default a 20th of the cohort"),
    ] = None

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """Clip to the bound of the round, weigh 1, and count the bit. No noise."""
        received = plain(update, self.name)
        bound = self._bound(context)
        fits = geometry.row_norms(received.values) <= bound
        counted = context.state.get("bits", torch.zeros((), dtype=torch.float64))
        context.state["bits"] = counted + (fits.double() - 0.5).sum().cpu()
        values, clipped = clip_norms(received.values, bound)
        tally(clipped, context)
        return Plain(values, torch.ones_like(received.weights))

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        """The noisy mean over the expected cohort, and the bound of the next round."""
        received = plain(aggregate, self.name)
        bound, count_noise = self._bound(context), self._count_noise(context)
        noise_std = noise_of_updates(self._noise_multiplier(context), count_noise) * bound
        mean = noisy_mean(
            received.values[0],
            total_weight=float(received.weights[0]),
            denominator=context.cohort,
            noise_std=noise_std,
            generator=context.generator("noise"),
        )
        bits: Tensor = context.state.pop("bits", torch.zeros((), dtype=torch.float64))
        drawn = torch.randn((), generator=context.generator("count"), dtype=torch.float64)
        unclipped = 0.5 + float(bits + count_noise * drawn) / context.cohort
        new = next_clip_norm(bound, unclipped, quantile=self.quantile, rate=self.rate)
        context.state["clip_norm"] = torch.tensor(new, dtype=torch.float64)
        context.report.update(noise_std=noise_std / context.cohort, clip_norm=bound, unclipped_share=unclipped)
        return Plain(mean[None], torch.full_like(received.weights, context.cohort))

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Those of `ClientLevelDP`, and a count that spends the whole budget."""
        found = list(super().problems(setting))
        try:
            multiplier = self._noise_multiplier(setting)
        except ValueError:  # its reason is among those already found
            return found
        try:
            noise_of_updates(multiplier, self._count_noise(setting))
        except ValueError as error:
            found.append((str(error), f"set `count_noise: {math.ceil(multiplier)}` or more, or ask more clients"))
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Those of `ClientLevelDP`; the noise depends on the bound of each round."""
        claimed = super().claims(setting)
        noise = noise_of_updates(self._noise_multiplier(setting), self._count_noise(setting))
        del claimed["noise_std"]
        return {
            **claimed,
            "noise_multiplier_of_updates": noise,
            "count_noise": self._count_noise(setting),
            "noise_std_first_round": noise * self.clip_norm / setting.cohort,
        }

    def _bound(self, context: RoundContext) -> float:
        kept = context.state.get("clip_norm")
        return self.clip_norm if kept is None else float(kept)

    def _count_noise(self, where: Setting | RoundContext) -> float:
        return where.cohort / BITS if self.count_noise is None else self.count_noise
