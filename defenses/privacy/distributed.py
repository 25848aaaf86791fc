"""Distributed differential privacy: every client adds a share of the noise, and nobody sees less than the sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedsec.epsilon.claims import EVERYONE, HOLDS_AGAINST
from fedsec.errors import ConfigurationError, Problem
from fedsec.protocol.payload import Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.randomness import numpy_generator
from fedsec.threat import Paper

from ..clipping.norms import clip_norms
from ..clipping.plugins import tally
from ..expect import plain
from .accounting import default_delta
from .discrete_gaussian import LARGEST, discrete_gaussian, rounded, rounded_norm, sum_epsilon
from .setting import Budget, ClipBound, Delta, at_most_one, caveat, common_problems, implementing

Behind = Literal["secure-aggregation", "bfv", "ckks"]
_BETA = math.exp(-0.5)
"""Rounding is drawn again with at most this chance (the paper's choice)."""
_FAR = 8.0
"""Standard deviations of a client's noise that its range must hold; an entry is farther out with a chance of 1e-15."""


@dataclass(frozen=True)
class Lattice:
    """The values that the stage which forms the sum adds up without error: ``(k + offset) step`` for whole ``k``."""

    step: float
    offset: float

    @classmethod
    def of(cls, behind: Behind, *, value_range: float, bits: int) -> Lattice:
        """The grid of that stage, given the same parameters."""
        if behind == "secure-aggregation":
            # 2**bits values from -range to range: an even number of them, so zero lies between two
            return cls(2 * value_range / (2**bits - 1), 0.5)
        if behind == "bfv":
            return cls(value_range / (2 ** (bits - 1) - 1), 0.0)
        return cls(2.0**-bits, 0.0)


@dataclass(frozen=True, kw_only=True)
class DistributedDP(Defense):
    """The distributed discrete Gaussian mechanism, before a stage that opens sums only.

    Each client clips, rounds at random to the grid of that stage (again, until the norm is at most that of
    `rounded_norm`), and adds discrete Gaussian noise: its share, so that the noise of the honest clients that are
    counted on adds up to ``noise_multiplier`` times the sensitivity. The sum is private for whoever reads it, the
    server too, although nobody is trusted with the noise. If fewer clients come than are counted on, the round is
    dropped; by then the sum is open, so the stage that forms it should have that number as its minimum.

    The server sees who came, so sampling amplifies nothing; neighbours differ in that one client sends zeros.
    Simplifications: no rotation that flattens updates before rounding (the ring must hold the range of each coordinate
    instead), and the range is chosen so wide that wrapping around does not happen, instead of being undone.

    ``behind``, ``value_range`` and ``bits`` must be those of the stage that forms the sum: a grid of its own would
    round each client's noisy value once more, which no analysis of the sum covers. What was summed on another grid is
    noticed when it is opened.
    """

    name: ClassVar[str] = "dp-distributed"
    summary: ClassVar[str] = "Clips, rounds and adds each client's share of discrete Gaussian noise inside secure sums"
    family: ClassVar[str] = "differential privacy"
    paper: ClassVar[Paper | None] = Paper(
        title="The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation",
        authors="Kairouz, Liu, Steinke",
        venue="ICML 2021",
        where="algorithm 1 without the rotation, theorem 1",
    )
    cost: ClassVar[str] = "accuracy as central noise costs it; about a microsecond per value and client"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="whether a client took part, and all its data, with the epsilon and delta that it claims",
        against="everyone else: the server, other clients, whoever sees the released models",
        assuming="only the sum is opened, and only if the clients that are counted on came and added their noise; the "
        "client itself clips, rounds and adds its own",
    )
    perturbs: ClassVar[bool] = True
    unit_weights: ClassVar[bool] = True

    clip_norm: ClipBound = 1.0
    noise_multiplier: Annotated[
        float | None,
        Field(
            ge=0.05,
            description="standard deviation of the noise in the sum over the sensitivity; 1 if epsilon is not given",
        ),
    ] = None
    epsilon: Budget = None
    delta: Delta = None
    absent: Annotated[
        float, Field(ge=0, lt=1, description="share of the cohort that may add no noise: dropped out, or colluding")
    ] = 0.1
    behind: Annotated[Behind, Field(description="the stage that forms the sum, whose grid is used")] = (
        "secure-aggregation"
    )
    value_range: Annotated[
        float, Field(gt=0, description="largest magnitude of an entry there (`value_range`; `bound` of bfv)")
    ] = 4.0
    bits: Annotated[int, Field(ge=8, le=24, description="of a value there (`bits`; `resolution_bits` of ckks)")] = 16

    def __post_init__(self) -> None:
        at_most_one(self.name, ("noise_multiplier", self.noise_multiplier), ("epsilon", self.epsilon))

    @property
    def enforcement(self) -> EnforcedBy:
        """The client adds its own share; what others leave out is in `absent`."""
        return EnforcedBy.CLIENT

    @property
    def lattice(self) -> Lattice:
        """The grid of the stage that forms the sum."""
        return Lattice.of(self.behind, value_range=self.value_range, bits=self.bits)

    def seal(self, update: Payload, context: RoundContext) -> Plain:
        """Clip, round and add the client's share of the noise, weigh 1; float64 values on the grid."""
        received = plain(update, self.name)
        clipped_values, clipped = clip_norms(received.values.detach().to("cpu", torch.float64), self.clip_norm)
        tally(clipped, context)
        lattice, variance = self.lattice, self._variance(context, context.layout.size)
        draws = [numpy_generator(context.seed, context.round, "rounding", client) for client in context.clients]
        whole = rounded(
            clipped_values.numpy() / lattice.step, clip=self.clip_norm / lattice.step, beta=_BETA, random=draws
        )
        for row, client in enumerate(context.clients):
            random = numpy_generator(context.seed, context.round, "noise", client)
            whole[row] += discrete_gaussian(variance, whole.shape[1], random)
        context.report["noise_std"] = lattice.step * math.sqrt(variance)
        values = torch.from_numpy((whole + lattice.offset) * lattice.step)
        return Plain(values.to(received.values.device), torch.ones_like(received.weights))

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        """The mean without the grid's offset; zero if too few clients came.

        Raises:
            ConfigurationError: the sum is not on the grid.
        """
        received = plain(aggregate, self.name)
        count = float(received.weights[0])
        short = count < self._counted_on(context.cohort)
        context.report["dropped_round"] = float(short)
        if short:
            return Plain(torch.zeros_like(received.values), torch.zeros_like(received.weights))
        lattice = self.lattice
        steps = received.values.double() * (count / lattice.step) - count * lattice.offset
        if received.values.dtype == torch.float64 and float((steps - steps.round()).abs().max()) > 1e-3:
            raise ConfigurationError([self._off_grid()])
        mean = received.values - lattice.offset * lattice.step
        return Plain(mean, received.weights)

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """No stage that hides single updates, a grid too coarse or too fine, a useless delta, batch norm."""
        found = common_problems(setting, delta=self._delta(setting))
        mine = setting.stack.index(self.name) if self.name in setting.stack else len(setting.stack)
        after = setting.stack[mine + 1 :]
        if self.behind not in after:
            found.append(
                (
                    "each client's share of the noise hides little by itself: without a stage after it that opens "
                    "sums only, the server reads single updates",
                    f"put {self.behind} after dp-distributed, or use dp-local",
                )
            )
        else:
            found.extend(
                (
                    f"{other} changes the values between dp-distributed and {self.behind}: what is summed is no longer "
                    "what was accounted for",
                    f"put {other} before dp-distributed",
                )
                for other in implementing(("seal",), after[: after.index(self.behind)])
            )
        try:
            variance = self._variance(setting, setting.layout.size)
        except ValueError as error:
            return [*found, (str(error), "raise epsilon or delta, or train for fewer rounds")]
        lattice, std = self.lattice, self.lattice.step * math.sqrt(variance)
        if variance > LARGEST:
            found.append((f"the noise is more than {math.isqrt(LARGEST)} steps of the grid", "set fewer `bits`"))
        if self.clip_norm + _FAR * std > self.value_range and self.behind != "ckks":
            found.append(
                (
                    f"an entry may be as large as {self.clip_norm + _FAR * std:.3g} with its noise, beyond the range "
                    f"of {self.value_range:g}: what saturates is not private",
                    f"set `value_range: {2 ** math.ceil(math.log2(self.clip_norm + _FAR * std))}` here and there",
                )
            )
        norm = lattice.step * self._sensitivity(setting.layout.size)
        if norm > 1.5 * self.clip_norm:
            found.append(
                (
                    f"rounding to the grid makes an update of norm {self.clip_norm:g} as long as {norm:.3g}",
                    "set more `bits` here and there",
                )
            )
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Epsilon and delta of a client that takes part in every round, with what they rest on."""
        dimension = setting.layout.size
        variance, terms = self._variance(setting, dimension), self._counted_on(setting.cohort)
        step, sensitivity = self.lattice.step, self._sensitivity(dimension)
        return {
            "epsilon": sum_epsilon(
                sensitivity=sensitivity, variance=variance, terms=terms, dimension=dimension, rounds=setting.rounds,
                delta=self._delta(setting),
            ),
            "delta": self._delta(setting),
            "unit": "client",
            HOLDS_AGAINST: EVERYONE,
            "sampler": f"{setting.sampling}: no amplification claimed",
            "adjacency": "one client's updates set to zero (zero-out)",
            "accountant": "rdp of a sum of discrete Gaussians",
            "noise_multiplier": math.sqrt(terms * variance) / sensitivity,
            "noise_std": step * math.sqrt(variance),
            "noise_std_sum": step * math.sqrt(terms * variance),
            "noise_shares_counted_on": float(terms),
            "sensitivity": step * sensitivity,
            "resolution": step,
            "steps": float(setting.rounds),
            **caveat(setting.population),
        }  # fmt: skip

    def _counted_on(self, cohort: float) -> int:
        return max(1, math.floor(cohort * (1 - self.absent) + 1e-9))

    def _sensitivity(self, dimension: int) -> float:
        """In steps of the grid."""
        return rounded_norm(self.clip_norm / self.lattice.step, dimension, _BETA)

    def _variance(self, where: Setting | RoundContext, dimension: int) -> int:
        """Of one client's noise in steps of the grid; a whole number, rounded up."""
        terms, sensitivity = self._counted_on(where.cohort), self._sensitivity(dimension)

        def of(multiplier: float) -> int:
            return max(1, math.ceil((multiplier * sensitivity) ** 2 / terms))

        if self.epsilon is None:
            return of(1.0 if self.noise_multiplier is None else self.noise_multiplier)

        def spent(variance: int) -> float:
            return sum_epsilon(
                sensitivity=sensitivity, variance=variance, terms=terms, dimension=dimension, rounds=where.rounds,
                delta=self._delta(where),
            )  # fmt: skip

        low, high = 0, of(1.0)
        while spent(high) > self.epsilon:
            low, high = high, 2 * high
            if high > LARGEST * terms:
                raise ValueError(f"no amount of noise on this grid gives epsilon {self.epsilon:g}")
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if spent(middle) > self.epsilon else (low, middle)
        return high

    def _delta(self, where: Setting | RoundContext) -> float:
        return default_delta(where.population) if self.delta is None else self.delta

    def _off_grid(self) -> Problem:
        names = {
            "secure-aggregation": f"`value_range: {self.value_range:g}`, `bits: {self.bits}` and `max_weight: 1`",
            "bfv": f"`bound: {self.value_range:g}` and `bits: {self.bits}`",
            "ckks": f"`resolution_bits: {self.bits}`",
        }
        return Problem(
            path=f"defenses.{self.behind}",
            found="a sum that does not lie on the grid of dp-distributed",
            expected="the same grid, or the noise does not hide what the rounding of each client adds",
            hint=f"Give {self.behind} {names[self.behind]}",
        )
