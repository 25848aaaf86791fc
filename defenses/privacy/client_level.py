"""Central client-level differential privacy: DP-FedAvg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.epsilon.claims import HOLDS_AGAINST, OUTSIDERS
from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..clipping.norms import clip_norms
from ..clipping.plugins import tally
from ..expect import plain
from .accounting import Accounting, amplification_rate, default_delta, epsilon_spent, noise_for
from .setting import Budget, ClipBound, Delta, at_most_one, caveat, common_problems, rules_that_are_no_mean


def noisy_mean(
    mean: Tensor, *, total_weight: float, denominator: float, noise_std: float, generator: torch.Generator
) -> Tensor:
    """The fixed-denominator estimator of McMahan et al. 2018 (section 2, eq. for ``f_f``) with Gaussian noise.

    Dividing by the clients that happened to come would make the sensitivity depend on who came; the expected
    cohort ``qN`` does not. The noise of an empty round is the same.

    Args:
        mean: ``(d,)`` mean over the clients that came.
        total_weight: how many came (each with weight 1).
        denominator: clients expected, ``qN``.
        noise_std: standard deviation of the noise in the sum.
        generator: draws the noise, on the CPU.

    Returns:
        ``(d,)``: ``(sum + N(0, noise_std^2)) / denominator``.
    """
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
    return mean * (total_weight / denominator) + noise * (noise_std / denominator)


@dataclass(frozen=True, kw_only=True)
class ClientLevelDP(Defense):
    """DP-FedAvg: clients clip and count once each, whoever opens the sum adds noise to it.

    Nothing is added before the server: it sees every clipped update exactly as it was clipped, so the guarantee
    holds against those who see what the server publishes, never against the server. The unit is a client.

    Under Poisson sampling (each client by itself with rate ``cohort / population``) the accountant's
    amplification applies, for neighbouring federations that differ by one client more or less. For a fixed
    number of clients per round, and for all of them, no amplification is claimed: neighbours differ in that one
    client's update is zero in every round. Noise comes from a seeded float generator, as befits a simulation;
    a deployment needs a secret seed and a discrete sampler (Mironov 2012). The share of clipped updates that it
    reports is for the auditor; publishing it would be a release of its own.
    """

    name: ClassVar[str] = "dp-client"
    summary: ClassVar[str] = "Clips updates at the clients and adds Gaussian noise to their sum (DP-FedAvg)"
    family: ClassVar[str] = "differential privacy"
    paper: ClassVar[Paper | None] = Paper(
        title="Learning Differentially Private Recurrent Language Models",
        authors="McMahan, Ramage, Talwar, Zhang",
        venue="ICLR 2018",
        where="algorithm 1, flat clipping, fixed denominator, unit weights",
    )
    cost: ClassVar[str] = "accuracy, the more the fewer clients; no time to speak of"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="whether a client took part, and all its data, with the epsilon and delta that it claims",
        against="whoever sees the released models, other clients included",
        assuming="whoever opens the sum is honest and adds the noise (the server, without encryption, sees every "
        "update), the client clips, the sum is a plain sum, and under Poisson sampling who came stays secret",
    )
    unit_weights: ClassVar[bool] = True

    clip_norm: ClipBound = 1.0
    noise_multiplier: Annotated[
        float | None,
        Field(
            ge=0.05, description="standard deviation of the noise in the sum over clip_norm; 1 if epsilon is not given"
        ),
    ] = None
    epsilon: Budget = None
    delta: Delta = None
    accountant: Accounting = "prv"

    def __post_init__(self) -> None:
        at_most_one(self.name, ("noise_multiplier", self.noise_multiplier), ("epsilon", self.epsilon))

    @property
    def enforcement(self) -> EnforcedBy:
        """Clients clip; the guarantee of an honest client does not depend on what others send."""
        return EnforcedBy.CLIENT

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """Clip to ``clip_norm``, and weigh 1 whatever the number of examples. No noise."""
        received = plain(update, self.name)
        values, clipped = clip_norms(received.values, self.clip_norm)
        tally(clipped, context)
        return Plain(values, torch.ones_like(received.weights))

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        """The noisy mean over the expected cohort, whose weight it takes; see `noisy_mean`."""
        received = plain(aggregate, self.name)
        noise_std = self._noise_multiplier(context) * self.clip_norm
        mean = noisy_mean(
            received.values[0],
            total_weight=float(received.weights[0]),
            denominator=context.cohort,
            noise_std=noise_std,
            generator=context.generator("noise"),
        )
        context.report["noise_std"] = noise_std / context.cohort
        return Plain(mean[None], torch.full_like(received.weights, context.cohort))

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Batch norm, a useless delta, a budget out of reach, a rule that is no sum."""
        found = common_problems(setting, delta=self._delta(setting))
        found.extend(
            (
                f"{rule} replaces the mean or what is averaged, and one client may move the result by more than "
                "clip_norm / cohort",
                f"leave {rule} out, or measure both as stacks of their own",
            )
            for rule in rules_that_are_no_mean(setting.stack)
        )
        try:
            self._noise_multiplier(setting)
        except ValueError as error:
            found.append((str(error), "raise epsilon or delta, or train for fewer rounds"))
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Epsilon and delta after all rounds, with everything without which an epsilon means nothing."""
        noise, rate = self._noise_multiplier(setting), self._rate(setting)
        poisson = setting.sampling == "poisson"
        epsilon = epsilon_spent(
            noise_multiplier=noise,
            rate=rate,
            steps=setting.rounds,
            delta=self._delta(setting),
            accountant=self.accountant,
        )
        exact = " (exact Gaussian composition)" if self.accountant == "prv" and rate == 1 else ""
        return {
            "epsilon": epsilon,
            "delta": self._delta(setting),
            "unit": "client",
            HOLDS_AGAINST: OUTSIDERS,
            "sampler": f"poisson, rate {rate:g}" if poisson else f"{setting.sampling}: no amplification claimed",
            "adjacency": "add or remove one client" if poisson else "one client's updates set to zero (zero-out)",
            "accountant": self.accountant + exact,
            "noise_multiplier": noise,
            "noise_std": noise * self.clip_norm / setting.cohort,
            "steps": float(setting.rounds),
            **caveat(setting.population),
        }

    def _delta(self, where: Setting | RoundContext) -> float:
        return default_delta(where.population) if self.delta is None else self.delta

    def _rate(self, where: Setting | RoundContext) -> float:
        return amplification_rate(where.sampling, where.cohort, where.population)

    def _noise_multiplier(self, where: Setting | RoundContext) -> float:
        if self.epsilon is None:
            return 1.0 if self.noise_multiplier is None else self.noise_multiplier
        return noise_for(
            epsilon=self.epsilon,
            rate=self._rate(where),
            steps=where.rounds,
            delta=self._delta(where),
            accountant=self.accountant,
        )
