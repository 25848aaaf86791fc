"""Sample-level differential privacy: DP-SGD at every client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.epsilon.claims import EVERYONE, HOLDS_AGAINST
from fedsec.models.lanes import Lanes, Step, gradient_step
from fedsec.models.per_example import clipped_sums
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, Setting
from fedsec.randomness import generator
from fedsec.threat import Paper

from .accounting import Accounting, default_delta
from .ledger import Ledger, ledgers, worst
from .setting import implementing


@dataclass(frozen=True, kw_only=True)
class SampleLevelDP(Defense):
    """DP-SGD at every client: each local step draws its batch by Poisson sampling, clips the gradient of every example
    by itself (all layers jointly), sums, adds Gaussian noise, and divides by the expected batch size.

    The unit is an example of one client, and the noise is the client's own, so the guarantee holds against the server
    too; what comes later (the local optimizer, robust rules, the server's optimizer) is post-processing. A batch that
    happens to be empty still gets its noise and still counts. A client has one ledger over all rounds: its rate is
    ``batch_size`` over its number of examples (which is taken as public), its steps those of every round, and the claim
    is that of the client that spends most. Clients hold different examples: they do not add up, unless a person's
    examples lie at several of them.

    With a batch size no smaller than the shard there is nothing to sample, and no amplification is claimed. Noise
    comes from a seeded float generator, as befits a simulation (see `ClientLevelDP`).
    """

    name: ClassVar[str] = "dp-sample"
    summary: ClassVar[str] = "Clips the gradient of every example and adds Gaussian noise in each local step (DP-SGD)"
    family: ClassVar[str] = "differential privacy"
    paper: ClassVar[Paper | None] = Paper(
        title="Deep Learning with Differential Privacy",
        authors="Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang",
        venue="CCS 2016",
        where="algorithm 1, with Poisson batches and the expected batch size as denominator",
    )
    cost: ClassVar[str] = "accuracy, the more the fewer examples a client has; about twice the time of a local step"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="whether one example is among a client's, and what it is, with the epsilon and delta that it claims",
        against="everyone else: the server, other clients, whoever sees the released models",
        assuming="the client itself draws its batches and adds the noise, both in secret, nothing but what it holds "
        "depends on the example, and a person has one example",
    )
    clip_norm: Annotated[
        float, Field(gt=0, description="largest L2 norm of an example's gradient, all layers jointly")
    ] = 1.0
    noise_multiplier: Annotated[
        float, Field(ge=0.05, description="standard deviation of the noise in the sum of gradients over clip_norm")
    ] = 1.0
    delta: Annotated[
        float | None,
        Field(gt=0, lt=1, description="delta; by default 1 / (10 examples of the largest client), at most 0.001"),
    ] = None
    accountant: Accounting = "prv"

    @property
    def enforcement(self) -> EnforcedBy:
        """The client, who trusts nobody."""
        return EnforcedBy.CLIENT

    @property
    def poisson(self) -> bool:
        """The accountant assumes Poisson batches, so that is how they are drawn."""
        return True

    def local(self, step: Step) -> Step:
        """The noisy step; see `PrivateStep`.

        Raises:
            ValueError: another defense is wrapped around the gradient already.
        """
        if step is not gradient_step:
            raise ValueError("dp-sample takes the gradient of each example itself and cannot wrap another local step")
        return PrivateStep(self.clip_norm, self.noise_multiplier)

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Batch norm, a useless delta, and stages that make an example's gradient depend on others."""
        found: list[tuple[str, str]] = []
        if setting.has_batch_norm:
            found.append(
                (
                    "batch norm mixes the examples of a batch: no example has a gradient of its own, and running "
                    "statistics leave without noise",
                    "use a model with group norm (for a model of your own, opacus' ModuleValidator.fix makes one), and "
                    "compare with that model without noise",
                )
            )
        largest = max(setting.holdings, default=0)
        if largest and self._delta(setting) >= 1 / largest:
            found.append(
                (
                    f"delta {self._delta(setting):g} is not below 1/{largest}: publishing one random example of the "
                    "largest client outright would satisfy it",
                    f"set `delta: {default_delta(largest):g}` or leave it out",
                )
            )
        found.extend(
            (
                f"{other} changes the local step, and each of its passes over the data would be a release of its own",
                f"leave {other} out, or measure both as stacks of their own",
            )
            for other in implementing(("local",), setting.stack)
            if other != self.name
        )
        found.extend(
            (
                f"{other} decides what to do with an example by looking at others, so one example moves more than "
                "its own gradient",
                f"leave {other} out, or measure both as stacks of their own",
            )
            for other in implementing(("data",), setting.stack)
        )
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Epsilon and delta of the client that spends most if it takes part in every round, and how they came about."""
        found, rounds = self._ledgers(setting), setting.rounds
        delta = self._delta(setting)
        share = min(1.0, setting.cohort / setting.population)
        rates = sorted({ledger.rate for ledger in found})
        between = f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
        sampled = rates[0] < 1
        exact = " (exact Gaussian composition)" if self.accountant == "prv" and not sampled else ""
        claims: dict[str, float | str] = {
            "epsilon": worst(found, noise_multiplier=self.noise_multiplier, delta=delta, accountant=self.accountant),
            "epsilon_rdp": worst(found, noise_multiplier=self.noise_multiplier, delta=delta, accountant="rdp"),
            "delta": delta,
            "unit": "example",
            HOLDS_AGAINST: EVERYONE,
            "sampler": f"poisson in each local step, rate {between}" if sampled else "none: every batch is the shard",
            "adjacency": "add or remove one example of one client",
            "accountant": self.accountant + exact,
            "noise_multiplier": self.noise_multiplier,
            "steps": float(max(ledger.steps for ledger in found)),
            "composition": "over all rounds and local steps of a client; the maximum over clients, who hold different "
            "examples",
        }
        if share < 1:
            expected = max(1, round(rounds * share))
            claims["expected_participations"] = rounds * share
            claims["epsilon_expected_participations"] = worst(
                self._ledgers(setting, rounds=expected),
                noise_multiplier=self.noise_multiplier,
                delta=delta,
                accountant=self.accountant,
            )
        return claims

    def _ledgers(self, setting: Setting, *, rounds: int | None = None) -> tuple[Ledger, ...]:
        counted = setting.rounds if rounds is None else rounds
        found, _ = ledgers(
            setting.holdings, batch_size=setting.batch_size, local_steps=setting.local_steps, rounds=counted
        )
        # Without knowing how much clients hold, no rate can be claimed.
        return found or (Ledger(1.0, counted * setting.local_steps),)

    def _delta(self, setting: Setting) -> float:
        return default_delta(max(setting.holdings, default=1)) if self.delta is None else self.delta


@dataclass(frozen=True)
class PrivateStep:
    """The noisy gradient of one local step (picklable).

    Attributes:
        clip_norm: largest norm of an example's gradient.
        noise_multiplier: of the noise in the sum over that.
    """

    clip_norm: float
    noise_multiplier: float

    def __call__(self, lanes: Lanes, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """``(sum of clipped gradients + N(0, (noise_multiplier clip_norm)^2)) / expected batch size``.

        Raises:
            ValueError: the batches are not Poisson samples.
        """
        if not lanes.expected or min(lanes.expected) <= 0:
            raise ValueError("dp-sample was given batches that are no Poisson samples; no epsilon holds for them")
        sums, norms = clipped_sums(lanes, x, y, bound=self.clip_norm, present=lanes.present)
        noise = step_noise(lanes.keys, lanes.model.layout.trainable, sums[0])
        std = self.noise_multiplier * self.clip_norm
        expected = sums[0].new_tensor(lanes.expected)
        lanes.report("dp-sample.clipped_share", self._clipped(norms, lanes.present))
        gradients, last = [], 0
        for total in sums:
            first, last = last, last + total[0].numel()
            noisy = total + std * noise[:, first:last].view(total.shape)
            gradients.append(noisy / expected.view(-1, *(1 for _ in total.shape[1:])))
        return tuple(gradients)

    def _clipped(self, norms: Tensor, present: Tensor | None) -> Tensor:
        """Share of the examples whose gradient was clipped, ``(l,)``; 0 for an empty batch."""
        there = torch.ones_like(norms, dtype=torch.bool) if present is None else present
        return ((norms > self.clip_norm) & there).sum(1) / there.sum(1).clamp_min(1)


def step_noise(keys: Tensor, size: int, like: Tensor) -> Tensor:
    """Standard normal noise ``(l, size)`` that depends on each lane's key alone: batching lanes changes nothing.

    Args:
        keys: ``(l,)`` int64.
        size: numbers per lane.
        like: gives dtype and device.
    """
    rows = [
        torch.randn(size, generator=generator("dp-sample noise", int(key)), dtype=like.dtype) for key in keys.tolist()
    ]
    return torch.stack(rows).to(like.device)
