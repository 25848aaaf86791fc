"""Local differential privacy: every client adds its own noise and trusts nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.epsilon.claims import EVERYONE, HOLDS_AGAINST
from fedsec.epsilon.gaussian import gaussian_epsilon, gaussian_sigma
from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..clipping.norms import clip_norms
from ..clipping.plugins import tally
from ..expect import plain
from .accounting import default_delta, epsilon_spent
from .setting import ClipBound, at_most_one, common_problems

_SENSITIVITY = {"replace-one": 2.0, "zero-out": 1.0}
"""Distance between the clipped updates of neighbours, in units of the clipping bound."""


def noise_rows(clients: Sequence[int], like: Tensor, context: RoundContext) -> Tensor:
    """Standard normal noise ``(n, d)``, a row drawn from its client's own generator: chunks change nothing."""
    rows = [torch.randn(like.shape[1], generator=context.generator("noise", c), dtype=like.dtype) for c in clients]
    return torch.stack(rows).to(like.device) if rows else torch.zeros_like(like)


@dataclass(frozen=True, kw_only=True)
class LocalDP(Defense):
    """Clip to ``clip_norm`` and add Gaussian noise of standard deviation ``noise_multiplier * clip_norm`` per client.

    The unit is a client, the adversary everyone else, the server included. Neighbours, by the definition of
    local differential privacy, are any two updates that a client might send (``replace-one``: two clipped
    updates lie up to ``2 clip_norm`` apart). ``zero-out`` compares an update with none at all (distance
    ``clip_norm``): the same noise then has a smaller epsilon, comparable with that of `dp-client`.

    Each round is a release of its own. A client that takes part in all of ``T`` rounds has the epsilon of ``T``
    Gaussian mechanisms, which is exactly that of one with ``sqrt(T)`` times the sensitivity over noise
    (`gaussian_epsilon`); the Renyi bound is claimed beside it. The server sees who came, so sampling amplifies
    nothing. Weights are set to 1: the number of examples is data too. Seeded float noise, as in `dp-client`.
    """

    name: ClassVar[str] = "dp-local"
    summary: ClassVar[str] = "Clips each update and adds Gaussian noise to it at the client"
    family: ClassVar[str] = "differential privacy"
    paper: ClassVar[Paper | None] = Paper(
        title="Improving the Gaussian Mechanism for Differential Privacy: Analytical Calibration and Optimal Denoising",
        authors="Balle, Wang",
        venue="ICML 2018",
        where="theorem 8 (calibration)",
    )
    cost: ClassVar[str] = "much accuracy: the noise of the mean is sqrt(cohort) times that of central noise"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="all data of a client, with the epsilon and delta that it claims",
        against="everyone else: the server, other clients, whoever sees the released models",
        assuming="the client itself clips and adds the noise; that it took part stays visible",
    )
    perturbs: ClassVar[bool] = True
    unit_weights: ClassVar[bool] = True

    clip_norm: ClipBound = 1.0
    noise_multiplier: Annotated[
        float | None,
        Field(
            ge=0.05,
            description="standard deviation of each client's noise over clip_norm; 1 if epsilon_per_round is not given",
        ),
    ] = None
    epsilon_per_round: Annotated[
        float | None, Field(gt=0, description="epsilon of one round at `delta`; the noise is solved from it")
    ] = None
    delta: Annotated[
        float | None,
        Field(gt=0, lt=1, description="delta of a round and of the whole; by default 1 / (10 clients), at most 0.001"),
    ] = None
    adjacency: Annotated[
        Literal["replace-one", "zero-out"],
        Field(description="what must look alike: any two updates of a client, or its update and none"),
    ] = "replace-one"

    def __post_init__(self) -> None:
        at_most_one(
            self.name, ("noise_multiplier", self.noise_multiplier), ("epsilon_per_round", self.epsilon_per_round)
        )

    @property
    def enforcement(self) -> EnforcedBy:
        """The client, who trusts nobody."""
        return EnforcedBy.CLIENT

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """Clip, add the client's noise, weigh 1."""
        received = plain(update, self.name)
        values, clipped = clip_norms(received.values, self.clip_norm)
        tally(clipped, context)
        std = self._noise_multiplier(context) * self.clip_norm
        context.report["noise_std"] = std
        noise = noise_rows(context.clients, values, context)
        return Plain(values + std * noise, torch.ones_like(received.weights))

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Batch norm and a useless delta."""
        return common_problems(setting, delta=self._delta(setting))

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Epsilon and delta of a client that takes part in every round, and what one round costs."""
        noise, delta, rounds = self._noise_multiplier(setting), self._delta(setting), setting.rounds
        per_sensitivity = noise / _SENSITIVITY[self.adjacency]
        expected = rounds * min(1.0, setting.cohort / setting.population)
        claims: dict[str, float | str] = {
            "epsilon": gaussian_epsilon(math.sqrt(rounds) / per_sensitivity, delta),
            "epsilon_per_round": gaussian_epsilon(1 / per_sensitivity, delta),
            "delta": delta,
            "unit": "client",
            HOLDS_AGAINST: EVERYONE,
            "sampler": "none: a client that takes part in every round",
            "adjacency": "replace one client's data" if self.adjacency == "replace-one" else "zero-out of its updates",
            "accountant": "exact Gaussian composition",
            "noise_multiplier": noise,
            "noise_std": noise * self.clip_norm,
            "steps": float(rounds),
            "expected_participations": expected,
        }
        if per_sensitivity >= 0.05:
            claims["epsilon_rdp"] = epsilon_spent(
                noise_multiplier=per_sensitivity, rate=1.0, steps=rounds, delta=delta, accountant="rdp"
            )
        return claims

    def _delta(self, where: Setting | RoundContext) -> float:
        return default_delta(where.population) if self.delta is None else self.delta

    def _noise_multiplier(self, where: Setting | RoundContext) -> float:
        if self.epsilon_per_round is None:
            return 1.0 if self.noise_multiplier is None else self.noise_multiplier
        return gaussian_sigma(self.epsilon_per_round, self._delta(where), sensitivity=_SENSITIVITY[self.adjacency])
