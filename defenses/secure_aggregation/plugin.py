"""Secure aggregation as a defense: the server learns the sum of a round and no row of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field

from fedsec.errors import ConfigurationError, Problem
from fedsec.protocol.payload import Kind, Masked, Payload, Plain
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..expect import plain
from ..room import MaxWeight, ValueRange, rows_expected
from .fixed_point import FixedPoint, most_bits
from .graph import most_colluders, risk, threshold_of
from .keys import Identity
from .messages import Aborted, Terms
from .ring import Words
from .scheme import MaskedScheme, read_sum
from .session import Session

if TYPE_CHECKING:
    from fedsec.selftests.answers import KnownAnswer

_LEAST_BITS = 8
"""Fewer levels than 2**8 are no resolution to train with."""


@dataclass(frozen=True, kw_only=True)
class SecureAggregation(Defense):
    """The protocol of Bonawitz et al. and, with ``neighbours``, the sparse graph of Bell et al. (CCS 2020).

    Each round runs for real between simulated parties that exchange bytes: fresh keys, Shamir shares of the own seed
    and the mask key, masked rows ``[w y, w]`` in fixed point, and, against a server that may cheat, signed keys and a
    signed list of survivors. Everybody who was asked exchanges keys and shares; who does not answer after that has
    vanished, and its masks are recovered. Below the threshold or the minimum cohort the round is aborted: nobody
    learns a sum, and the model stays.

    What is opened is exactly the sum of the words. Rounding to words is stochastic and unbiased, and counted where it
    saturates. No proof bounds what a malicious client puts under its mask: controlled clients are not clipped.

    Keys come from the operating system and cannot be seeded; results are reproducible because masks cancel.
    """

    name: ClassVar[str] = "secure-aggregation"
    summary: ClassVar[str] = (
        "Masks updates so that the server learns only their sum, whoever drops out (SecAgg, SecAgg+)"
    )
    family: ClassVar[str] = "secure aggregation"
    paper: ClassVar[Paper | None] = Paper(
        title="Practical Secure Aggregation for Privacy-Preserving Machine Learning",
        authors="Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth",
        venue="CCS 2017",
        where="figure 4, consistency check included",
    )
    cost: ClassVar[str] = "32-bit words, so no bytes per value; keys and shares per neighbour; masks of the vanished"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="single updates and their weights",
        against="the server, whoever listens to its channels, and other clients",
        assuming="fewer of a client's neighbours than the threshold collude with the server, and a server that cheats "
        "cannot sign for others. The sum is open: a small cohort, or two that differ in one client, tell much",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN})
    emits: ClassVar[Kind | None] = Kind.MASKED
    holders: ClassVar[frozenset[str]] = frozenset({"server"})
    upload_openers: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("server", "as many of its neighbours as the threshold"),
        ("eavesdropper", "as many of its neighbours as the threshold"),
    )

    value_range: ValueRange = 1.0
    bits: Annotated[
        int | None, Field(ge=8, le=40, description="of one value before it is weighed; by default as many as fit")
    ] = None
    max_weight: MaxWeight = 1024
    capacity: Annotated[
        int | None,
        Field(ge=2, description="clients that a round may have; by default twice the cohort, as a power of 2"),
    ] = None
    ring: Annotated[Literal[32, 64], Field(description="bits of a word on the wire")] = 32
    neighbours: Annotated[
        int | None,
        Field(ge=2, description="clients that each client masks against, an even number; null: all others"),
    ] = None
    active_server: Annotated[
        bool, Field(description="withstand a server that cheats: signatures, and a threshold above two thirds")
    ] = True
    minimum_cohort: Annotated[int, Field(ge=2, description="fewest clients whose sum is opened")] = 3
    vanish: Annotated[
        float, Field(ge=0, lt=1, description="share of the clients that vanish after their row arrived (simulated)")
    ] = 0.0

    @property
    def enforcement(self) -> EnforcedBy:
        """A row that is not masked in this round is not accepted."""
        return EnforcedBy.FORMAT

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """Too small a cohort, no room in the ring, an odd graph."""
        found = []
        if setting.largest_weight > self.max_weight:
            found.append(
                (
                    f"a client weighs {setting.largest_weight:g}, and the ring has room for {self.max_weight}",
                    f"set `max_weight: {math.ceil(setting.largest_weight)}`",
                )
            )
        cohort = setting.cohort
        if cohort < self.minimum_cohort:
            found.append(
                (
                    f"rounds of {cohort:g} clients are below the minimum cohort of {self.minimum_cohort}, and the sum "
                    "of two clients tells each of them the other's update",
                    "raise `clients_per_round`",
                )
            )
        bits = most_bits(self.max_weight, self._capacity(cohort), self.ring)
        if bits < max(self.bits or 0, _LEAST_BITS):
            found.append(
                (
                    f"the sum of {self._capacity(cohort)} rows of weight up to {self.max_weight} leaves {bits} bits "
                    f"for a value in words of {self.ring}",
                    "set `ring: 64`, or lower `max_weight`" + (", or leave `bits` out" if self.bits else ""),
                )
            )
        if self.neighbours is not None and self.neighbours % 2:
            found.append(("an odd number of neighbours", f"set `neighbours: {self.neighbours + 1}`"))
        if self.vanish and math.ceil((1 - self.vanish) * (self._degree(cohort))) < self._threshold(cohort):
            found.append(
                (
                    f"with {self.vanish:.0%} vanishing fewer than the threshold of {self._threshold(cohort)} of "
                    f"{self._degree(cohort)} neighbours are left: every round is aborted",
                    "lower `vanish`" + (" or set `active_server: false`" if self.active_server else ""),
                )
            )
        return found

    def claims(self, setting: Setting) -> dict[str, float | str]:
        """Threshold, who opens, resolution, graph."""
        degree, threshold = self._degree(setting.cohort), self._threshold(setting.cohort)
        fixed = self._fixed_point(setting.cohort)
        claims: dict[str, float | str] = {
            "opened_by": f"server+{threshold} of a client's {degree} neighbours",
            "threshold": float(threshold),
            "neighbours": float(degree),
            "colluders_tolerated": float(most_colluders(degree, threshold) if self.active_server else threshold - 1),
            "dropouts_tolerated": float(degree - threshold),
            "server": "may cheat" if self.active_server else "follows the protocol and is curious",
            "minimum_cohort": float(self.minimum_cohort),
            "ring_bits": float(self.ring),
            "value_bits": float(fixed.bits),
            "resolution": fixed.step,
        }
        if degree < round(setting.cohort) - 1:
            unmasked, lost = risk(
                round(setting.cohort), degree=degree, threshold=threshold, colluding=0.2, dropouts=0.1
            )
            claims["risk_unmasked"], claims["risk_aborted"] = unmasked, lost
            claims["risk_setting"] = "a round in which 20% collude and 10% vanish, drawn at random (union bounds)"
        return claims

    def known_answers(self) -> tuple[KnownAnswer, ...]:
        """What only the protocol itself can show; see `fedsec.selftests.run`."""
        from .rehearsal import KNOWN_ANSWERS

        return KNOWN_ANSWERS

    def seal(self, update: Payload, context: RoundContext) -> Masked:
        """Fixed point, then the masked row of the protocol.

        Raises:
            TypeError: the update is not in clear.
            ConfigurationError: more clients than the ring has room for, or a weight that it cannot hold.
        """
        readable = plain(update, self.name)
        participants = tuple(sorted({*context.participants, *context.clients}))
        fixed = self._fixed_point(context.cohort)
        if len(participants) > fixed.capacity:
            raise _too_much(f"{len(participants)} clients", f"a sum holds at most {fixed.capacity} rows",
                            f"Set `capacity: {len(participants)}`")  # fmt: skip
        length = readable.values.shape[1] + 1
        session = self._session(context, participants, length)
        rows = [
            (session.mask(client, self._words(readable, row, fixed, context)) or b"") if session else b""
            for row, client in enumerate(context.clients)
        ]
        if context.bound and rows:
            context.report["saturated_share"] = float(
                (readable.values.abs() > self.value_range).sum() / max(readable.values.numel(), 1)
            )
        everyone = frozenset(f"client:{c}" for c in participants)
        sharers = tuple(
            frozenset(f"client:{v}" for v in session.server.neighbours(c)) if session else everyone
            for c in context.clients
        )
        scheme = MaskedScheme(self._terms(context, length), readable.values.dtype)
        return Masked(tuple(rows), scheme, everyone, self._threshold(len(participants)), sharers, self.holders)

    def open(self, aggregate: Payload, context: RoundContext) -> Payload:
        """Recover what vanished, take the masks away, divide by the total weight.

        Returns:
            One row: the weighted mean and the total weight; zero and weight 0 if the round was aborted. Of a single
            masked row, what the server reads together with enough of the sender's neighbours.

        Raises:
            TypeError: the aggregate is not masked by this stage.
        """
        if isinstance(aggregate, Plain) and float(aggregate.weights.sum()) == 0.0:
            return aggregate
        if not isinstance(aggregate, Masked) or not isinstance(aggregate.scheme, MaskedScheme) or len(aggregate) != 1:
            raise TypeError(f"secure-aggregation opens one masked sum and was given a {aggregate.kind} payload")
        terms, dtype = aggregate.scheme.terms, aggregate.scheme.dtype
        session = context.vault.get("session")
        if not aggregate.is_sum:
            row = aggregate.masked[0]
            return self._mean(_of(session, terms).reveal(row), context, dtype) if row else aggregate
        arrived = read_sum(terms, aggregate.masked[0])
        silent = self._vanishing(sorted(arrived.senders), context)
        try:
            if not arrived.senders:
                raise Aborted("nobody's row arrived")
            session = _of(session, terms)
            opened = self._mean(session.finish(arrived, without_agreement=silent), context, dtype)
            context.report["aborted"] = 0.0
        except Aborted:
            opened = Plain(torch.zeros(1, terms.length - 1, dtype=dtype), torch.zeros(1, dtype=torch.float64))
            context.report["aborted"] = 1.0
        if isinstance(session, Session):
            context.report["recovered"] = float(len(session.server.recovered))
            context.report["protocol_up_bytes"] = float(session.traffic.beside_rows)
            context.report["protocol_down_bytes"] = float(session.traffic.to_clients)
        context.vault.pop("session", None)
        return opened

    def _words(self, update: Plain, row: int, fixed: FixedPoint, context: RoundContext) -> Words:
        values, weights = update.values[row : row + 1], update.weights[row : row + 1]
        draws = [context.generator("round", context.clients[row])]
        if not context.bound:
            return cast("Words", fixed.encode_unbound(values, weights, draws)[0])
        try:
            return cast("Words", fixed.encode(values, weights, draws)[0])
        except ValueError as error:
            largest = math.ceil(float(update.weights.max()))
            hint = f"Set `max_weight: {largest}` (and `ring: 64` if the planner then finds too few bits)"
            raise _too_much(str(error), "weights are whole numbers in the range", hint) from None

    def _mean(self, total: Words, context: RoundContext, dtype: torch.dtype) -> Plain:
        mean, weight = self._fixed_point(context.cohort).decode(total)
        return Plain(torch.from_numpy(mean)[None].to(dtype), torch.tensor([float(weight)], dtype=torch.float64))

    def _session(self, context: RoundContext, participants: tuple[int, ...], length: int) -> Session | None:
        """The session of this round; ``None`` if too few take part."""
        terms = self._terms(context, length)
        known = context.vault.get("session")
        if known == terms:
            return None
        if isinstance(known, Session) and known.terms == terms:
            if not set(context.clients) <= set(known.clients):
                raise ValueError(f"clients upload in round {context.round} who were not asked to take part")
            return known
        identities = cast("dict[int, Identity]", context.vault.setdefault("identities", {}))
        for number in participants:
            identities.setdefault(number, Identity(number))
        session = Session(terms, {number: identities[number] for number in participants})
        try:
            session.set_up()
        except Aborted:
            context.vault["session"] = terms
            return None
        context.vault["session"] = session
        return session

    def _terms(self, context: RoundContext, length: int) -> Terms:
        return Terms(
            session=hashlib.blake2b(str(context.seed).encode(), digest_size=16).digest(),
            round=context.round,
            length=length,
            ring_bits=self.ring,
            degree=self.neighbours,
            minimum=self.minimum_cohort,
            active_server=self.active_server,
        )

    def _vanishing(self, alive: list[int], context: RoundContext) -> list[int]:
        order = torch.randperm(len(alive), generator=context.generator("vanish")).tolist()
        return [alive[place] for place in order[: round(self.vanish * len(alive))]]

    def _fixed_point(self, cohort: float) -> FixedPoint:
        capacity = self._capacity(cohort)
        bits = self.bits or most_bits(self.max_weight, capacity, self.ring)
        return FixedPoint(
            value_range=self.value_range, bits=bits, max_weight=self.max_weight, capacity=capacity, ring_bits=self.ring
        )

    def _capacity(self, cohort: float) -> int:
        return rows_expected(cohort, self.capacity)

    def _degree(self, cohort: float) -> int:
        others = max(round(cohort) - 1, 1)
        return others if self.neighbours is None else min(self.neighbours, others)

    def _threshold(self, cohort: float) -> int:
        return threshold_of(self._degree(cohort), active_server=self.active_server)


def _of(session: object, terms: Terms) -> Session:
    """The session of a round.

    Raises:
        PermissionError: nobody holds shares of it.
    """
    if not isinstance(session, Session) or session.terms != terms:
        raise PermissionError(f"nobody holds shares of round {terms.round}")
    return session


def _too_much(found: str, expected: str, hint: str) -> ConfigurationError:
    return ConfigurationError([Problem(path="defenses.secure-aggregation", found=found, expected=expected, hint=hint)])
