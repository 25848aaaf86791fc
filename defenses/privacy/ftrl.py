"""Client-level differential privacy without sampling: tree noise on the sum of all updates so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec.epsilon.claims import EXACT_GAUSSIAN, HOLDS_AGAINST, OUTSIDERS
from fedsec.epsilon.gaussian import gaussian_epsilon, gaussian_sigma
from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..clipping.norms import clip_norms
from ..clipping.plugins import tally
from ..expect import plain
from .accounting import default_delta
from .setting import Budget, ClipBound, Delta, at_most_one, caveat, common_problems, rules_that_are_no_mean
from .tree import noise_of_round, tree_sensitivity


@dataclass(frozen=True, kw_only=True)
class TreeDP(Defense):
    """DP-FTRL for federations: what is noised is the sum of all rounds so far, by a binary tree over the rounds.

    The noise of the model after ``t`` rounds is that of at most ``log2(t) + 1`` nodes instead of ``t`` rounds, and no
    client needs to have been drawn at random: nothing is amplified, and nothing about the sampler is assumed. The price
    is that a client is not told apart from noise by its rounds alone but by every node above them; a client that is
    counted in every round costs more here than under `ClientLevelDP`, one that is counted once far less.

    ``participations`` and ``separation`` are enforced: a client that was counted as often as it may be, or too short a
    time ago, sends a zero. Neighbours differ in that one client sends zeros in every round. The whole tree is one
    Gaussian mechanism, so its epsilon is exact for the sensitivity of `tree_sensitivity`. Simplifications: no
    restarts, and no averaging of the estimates of a node's children (Honaker 2015), so noise is larger than it must be.
    """

    name: ClassVar[str] = "dp-ftrl"
    summary: ClassVar[str] = "Clips updates and adds tree noise to the sum of all rounds, whoever takes part (DP-FTRL)"
    family: ClassVar[str] = "differential privacy"
    paper: ClassVar[Paper | None] = Paper(
        title="Practical and Private (Deep) Learning Without Sampling or Shuffling",
        authors="Kairouz, McMahan, Song, Thakkar, Thakurta, Xu",
        venue="ICML 2021",
        where="algorithm 1 with the updates of a cohort as gradients, no restarts",
    )
    cost: ClassVar[str] = "accuracy, the more the more often a client counts; no time to speak of"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="all data of a client in all rounds that count it, with the epsilon and delta that it claims",
        against="whoever sees the released models, other clients included",
        assuming="whoever opens the sum is honest and adds the noise (the server, without encryption, sees every "
        "update), the client clips and keeps to its number of rounds, and the sum is a plain sum",
    )
    unit_weights: ClassVar[bool] = True

    clip_norm: ClipBound = 1.0
    noise_multiplier: Annotated[
        float | None,
        Field(ge=0.05, description="standard deviation of a node's noise over clip_norm; 1 if epsilon is not given"),
    ] = None
    epsilon: Budget = None
    delta: Delta = None
    participations: Annotated[
        int | None, Field(ge=1, description="most rounds that count one client; by default all of them")
    ] = None
    separation: Annotated[
        int, Field(ge=1, description="fewest rounds from one that counts a client to the next one that does")
    ] = 1

    def __post_init__(self) -> None:
        at_most_one(self.name, ("noise_multiplier", self.noise_multiplier), ("epsilon", self.epsilon))

    @property
    def enforcement(self) -> EnforcedBy:
        """Clients clip and keep count; an honest client's guarantee does not depend on what others send."""
        return EnforcedBy.CLIENT

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """Clip to ``clip_norm``, weigh 1, and send zeros if the client may not count in this round. No noise."""
        received = plain(update, self.name)
        values, clipped = clip_norms(received.values, self.clip_norm)
        tally(clipped, context)
        counts = torch.tensor([self._counts(client, context) for client in context.clients], dtype=torch.bool)
        context.report["withheld_share"] = float((~counts).float().mean()) if len(counts) else 0.0
        values = torch.where(counts.to(values.device)[:, None], values, torch.zeros_like(values))
        return Plain(values, torch.ones_like(received.weights))

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        """The mean over the expected cohort with this round's part of the tree noise; see `noise_of_round`."""
        received = plain(aggregate, self.name)
        noise_std = self._noise_multiplier(context) * self.clip_norm
        noise = noise_of_round(context.round, received.values[0], seed=context.seed)
        total = received.values[0] * float(received.weights[0]) + noise_std * noise
        context.report["node_noise_std"] = noise_std / context.cohort
        return Plain((total / context.cohort)[None], torch.full_like(received.weights, context.cohort))

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Batch norm, a useless delta, a rule that is no sum."""
        found = common_problems(setting, delta=self._delta(setting))
        found.extend(
            (
                f"{rule} replaces the mean or what is averaged, and one client may move the result by more than "
                "clip_norm / cohort",
                f"leave {rule} out, or measure both as stacks of their own",
            )
            for rule in rules_that_are_no_mean(setting.stack)
        )
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Epsilon and delta after all rounds of a client that counts as often as it may."""
        noise, sensitivity = self._noise_multiplier(setting), self._sensitivity(setting.rounds)
        times = min(setting.rounds, self.participations or setting.rounds)
        return {
            "epsilon": gaussian_epsilon(sensitivity / noise, self._delta(setting)),
            "delta": self._delta(setting),
            "unit": "client",
            HOLDS_AGAINST: OUTSIDERS,
            "sampler": "any: no amplification, and none is needed",
            "adjacency": "one client's updates set to zero (zero-out)",
            "accountant": EXACT_GAUSSIAN + " over the tree",
            "noise_multiplier": noise,
            "tree_sensitivity": sensitivity,
            "participations": float(times),
            "separation": float(self.separation),
            "steps": float(setting.rounds),
            "noise_std_final": noise * self.clip_norm * math.sqrt(setting.rounds.bit_count()) / setting.cohort,
            **caveat(setting.population),
        }

    def _counts(self, client: int, context: RoundContext) -> bool:
        """Whether this round counts the client; notes it if so."""
        if self.participations is None and self.separation == 1:
            return True
        key = f"client {client}"
        times, last = context.state.get(key, torch.tensor([0, -self.separation])).tolist()
        most = context.rounds if self.participations is None else self.participations
        if times >= most or context.round - last < self.separation:
            return False
        context.state[key] = torch.tensor([times + 1, context.round])
        return True

    def _sensitivity(self, rounds: int) -> float:
        most = rounds if self.participations is None else self.participations
        return tree_sensitivity(rounds, participations=most, separation=self.separation)

    def _delta(self, where: Setting | RoundContext) -> float:
        return default_delta(where.population) if self.delta is None else self.delta

    def _noise_multiplier(self, where: Setting | RoundContext) -> float:
        if self.epsilon is None:
            return 1.0 if self.noise_multiplier is None else self.noise_multiplier
        return gaussian_sigma(self.epsilon, self._delta(where), sensitivity=self._sensitivity(where.rounds))
