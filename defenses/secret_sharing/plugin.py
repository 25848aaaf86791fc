"""Additive secret sharing among several servers as a defense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field

from fedsec.errors import ConfigurationError, Problem
from fedsec.protocol.payload import Kind, Masked, Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..expect import plain
from ..room import MaxWeight, ValueRange, rows_expected
from ..secure_aggregation.fixed_point import FixedPoint, most_bits
from ..secure_aggregation.ring import Words
from .arithmetic import Traffic
from .messages import Helper, SharingScheme, split_row
from .norms import NormBound, most_bits_for_squares

_LEAST_BITS = 8
"""Fewer levels than 2**8 are no resolution to train with."""


@dataclass(frozen=True, kw_only=True)
class SecretSharing(Defense):
    """Every client sends each server one additive share of its row ``[w y, w]``, in fixed point.

    The leader is the federation's server; the others are its helpers. A helper's share is the expansion of a seed that
    travels through the leader in a box that only the helper opens. Each server adds up its shares, and the leader the
    sums: exactly the sum of the words. Nobody drops out in the middle: a client is in all sums or in none.

    With ``norm_bound`` the servers check of every row, by Beaver products and a comparison on shares, that no entry is
    out of range and that the update is no longer than the bound; they learn yes or no. This binds malicious clients,
    which neither masking nor encryption does. The correlated randomness comes from a trusted dealer, and servers are
    taken to follow the protocol.
    """

    name: ClassVar[str] = "secret-sharing"
    summary: ClassVar[str] = "Splits updates into shares for several servers that must all collude to read one"
    family: ClassVar[str] = "secure aggregation"
    paper: ClassVar[Paper | None] = Paper(
        title="Prio: Private, Robust, and Scalable Computation of Aggregate Statistics",
        authors="Corrigan-Gibbs, Boneh",
        venue="NSDI 2017",
        where="section 3 (sums of additive shares); instead of its proofs the check computes on shares (Beaver 1991)",
    )
    cost: ClassVar[str] = "servers that do not collude; with a norm bound, 640 bytes per value between two of them"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="single updates and their weights",
        against="all servers but one together, whoever listens to the channels, and other clients",
        assuming="one of the servers is honest and all follow the protocol. The sum is open to the leader; with a norm "
        "bound a dealer that nobody colludes with deals the randomness of the check",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN})
    emits: ClassVar[Kind | None] = Kind.MASKED
    holders: ClassVar[frozenset[str]] = frozenset({"server"})

    servers: Annotated[int, Field(ge=2, le=16, description="servers that each hold one share, the leader included")] = 2
    value_range: ValueRange = 1.0
    max_weight: MaxWeight = 1024
    capacity: Annotated[
        int | None,
        Field(ge=2, description="clients that a sum may have; by default twice the cohort, as a power of 2"),
    ] = None
    ring: Annotated[Literal[32, 64], Field(description="bits of a word on the wire; a norm bound needs 64")] = 32
    norm_bound: Annotated[
        float | None, Field(gt=0, description="L2 norm above which the servers refuse an update; null: no check")
    ] = None

    @property
    def enforcement(self) -> EnforcedBy:
        """What is not shares for all servers is not accepted."""
        return EnforcedBy.FORMAT

    @property
    def upload_openers(self) -> tuple[tuple[str, ...], ...]:  # type: ignore[override]  # a parameter decides it
        """All servers together."""
        return (tuple(self._parties),)

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """No room in the ring, or too little for squares."""
        found = []
        if setting.largest_weight > self.max_weight:
            found.append(
                (
                    f"a client weighs {setting.largest_weight:g}, and the ring has room for {self.max_weight}",
                    f"set `max_weight: {math.ceil(setting.largest_weight)}`",
                )
            )
        if self.norm_bound is not None and self.ring == 32:
            found.append(("a norm bound needs squares, which words of 32 bits cannot hold", "set `ring: 64`"))
        elif (bits := self._bits(setting.cohort, setting.layout.size)) < _LEAST_BITS:
            hint = "lower `max_weight`" if self.ring == 64 else "set `ring: 64`, or lower `max_weight`"
            found.append(
                (
                    f"a sum of {self._capacity(setting.cohort)} rows of weight up to {self.max_weight} leaves {bits} "
                    f"bits for a value in words of {self.ring}" + (", squares included" if self.norm_bound else ""),
                    hint,
                )
            )
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Who opens, resolution, and what the check bounds."""
        fixed = self._fixed_point(setting.cohort, setting.layout.size)
        claims: dict[str, float | str] = {
            "opened_by": "+".join(self._parties),
            "servers": float(self.servers),
            "ring_bits": float(self.ring),
            "value_bits": float(fixed.bits),
            "resolution": fixed.step,
        }
        if self.norm_bound is not None:
            slack = math.sqrt(setting.layout.size) * fixed.step
            claims["norm_bound"] = self.norm_bound
            claims["norm_bound_enforced"] = self.norm_bound + slack
            claims["dealer"] = "trusted: correlated randomness is dealt, not made by the servers"
        return claims

    def seal(self, update: Payload, context: RoundContext) -> Masked:
        """Fixed point, then shares.

        Raises:
            TypeError: the update is not in clear.
            ConfigurationError: a weight that is no whole number in the range.
        """
        readable = plain(update, self.name)
        size = readable.values.shape[1]
        fixed, scheme = self._fixed_point(context.cohort, size), self._scheme(context, size, readable.values.dtype)
        publics = [helper.public for helper in scheme.helpers]
        rows = tuple(
            split_row(self._words(readable, row, fixed, context), publics, round_index=context.round, sender=client)
            for row, client in enumerate(context.clients)
        )
        if context.bound and rows:
            context.report["saturated_share"] = float(
                (readable.values.abs() > self.value_range).sum() / max(readable.values.numel(), 1)
            )
        return Masked(rows, scheme, frozenset(self._parties), self.servers, (), self.holders)

    def open(self, aggregate: Payload, context: RoundContext) -> Plain:
        """Add the servers' sums and divide by the total weight.

        Returns:
            One row: the weighted mean and the total weight. Of a single row, what all servers together read.

        Raises:
            TypeError: the aggregate is not shared by this stage.
        """
        if isinstance(aggregate, Plain) and float(aggregate.weights.sum()) == 0.0:
            return aggregate
        if not isinstance(aggregate, Masked) or not isinstance(aggregate.scheme, SharingScheme) or len(aggregate) != 1:
            raise TypeError(f"secret-sharing opens one sum of shares and was given a {aggregate.kind} payload")
        scheme = aggregate.scheme
        fixed = self._fixed_point(context.cohort, scheme.length - 1)
        if not aggregate.is_sum:
            return _mean(fixed, scheme.reveal(aggregate.masked[0]), scheme.dtype)
        total, refused = scheme.opened(aggregate.masked[0])
        context.report.update({f"excluded:{client}": 1.0 for client in refused})
        traffic = context.vault.pop("traffic", None)
        between = (self.servers - 1) * scheme.length * self.ring / 8
        context.report["server_bytes"] = between + (traffic.bytes if isinstance(traffic, Traffic) else 0)
        if isinstance(traffic, Traffic):
            context.report["refused"] = float(len(refused))
            context.report["dealt_bytes"] = float(traffic.dealt)
        return _mean(fixed, total, scheme.dtype)

    def _words(self, update: Plain, row: int, fixed: FixedPoint, context: RoundContext) -> Words:
        values, weights = update.values[row : row + 1], update.weights[row : row + 1]
        draws = [context.generator("round", context.clients[row])]
        if not context.bound:
            return cast("Words", fixed.encode_unbound(values, weights, draws)[0])
        try:
            return cast("Words", fixed.encode(values, weights, draws)[0])
        except ValueError as error:
            hint = f"Set `max_weight: {math.ceil(float(update.weights.max()))}`"
            problem = Problem(
                path="defenses.secret-sharing", found=str(error), expected="weights are whole numbers", hint=hint
            )
            raise ConfigurationError([problem]) from None

    def _scheme(self, context: RoundContext, size: int, dtype: torch.dtype) -> SharingScheme:
        made = [Helper(number) for number in range(self.servers - 1)] if "helpers" not in context.vault else []
        helpers = cast("list[Helper]", context.vault.setdefault("helpers", made))
        fixed = self._fixed_point(context.cohort, size)
        if self.norm_bound is None:
            return SharingScheme(context.round, size + 1, self.ring, fixed.capacity, dtype, tuple(helpers))
        bound = NormBound(
            bound=self.norm_bound,
            value_range=self.value_range,
            levels=fixed.levels,
            max_weight=self.max_weight,
            size=size,
        )
        traffic = cast("Traffic", context.vault.setdefault("traffic", Traffic()))

        def accepts(shares: Words) -> bool:
            return bound.accepts(shares, traffic)

        return SharingScheme(context.round, size + 1, self.ring, fixed.capacity, dtype, tuple(helpers), accepts)

    @property
    def _parties(self) -> list[str]:
        return ["server", *(f"helper:{number}" for number in range(1, self.servers))]

    def _bits(self, cohort: float, size: int) -> int:
        bits = most_bits(self.max_weight, self._capacity(cohort), self.ring)
        return bits if self.norm_bound is None else min(bits, most_bits_for_squares(size, self.max_weight))

    def _fixed_point(self, cohort: float, size: int) -> FixedPoint:
        return FixedPoint(
            value_range=self.value_range,
            bits=self._bits(cohort, size),
            max_weight=self.max_weight,
            capacity=self._capacity(cohort),
            ring_bits=self.ring,
        )

    def _capacity(self, cohort: float) -> int:
        return rows_expected(cohort, self.capacity)


def _mean(fixed: FixedPoint, total: Words, dtype: torch.dtype) -> Plain:
    mean, weight = fixed.decode(total)
    return Plain(torch.from_numpy(mean)[None].to(dtype), torch.tensor([float(weight)], dtype=torch.float64))
