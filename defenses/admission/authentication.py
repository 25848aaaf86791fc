"""Admission of certified identities only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedsec.protocol.stage import Defense, Guarantee, RoundContext
from fedsec.threat import Paper

from .certificates import Authority, Gate, Holder
from .refusals import report


@dataclass(frozen=True, kw_only=True)
class Authentication(Defense):
    """Identities prove with a signature that an authority has enrolled them.

    Every real client enrolled before the training, also one that the adversary has bribed, so its key is certified. An
    identity that the adversary made up has a key pair and a certificate that it signed itself. In each round the
    server sends a fresh nonce, and every identity answers with its certificate and a signature of identity, round and
    nonce. Who does not, is not asked for an update and counts as excluded in that round.

    The simulation keeps all keys in the process; each holder is given its own only.
    """

    good_for: Annotated[
        int,
        Field(ge=1, description="Rounds that an answer is good for; with more than 1, fewer signatures are checked"),
    ] = 1

    name: ClassVar[str] = "authentication"
    summary: ClassVar[str] = "Lets only those identities in whose key an authority has certified (Ed25519 signatures)"
    family: ClassVar[str] = "admission"
    paper: ClassVar[Paper | None] = Paper(
        title="The Sybil Attack",
        authors="Douceur",
        venue="IPTPS 2002",
        where="section 3 (without a certifying authority identities are free); RFC 8032 (Ed25519)",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the cohort from identities that nobody enrolled, however many they are",
        against="an adversary that makes identities up, replays answers or forges certificates",
        assuming="the authority enrolls each participant once and keeps its key; clients keep theirs. It does nothing "
        "against enrolled clients that are bribed or broken into",
    )
    cost: ClassVar[str] = "0.1 ms of signatures per identity and round; an authority that knows every participant"

    def admit(self, identities: tuple[int, ...], context: RoundContext) -> tuple[int, ...]:
        """The identities that prove themselves; reports how many did not."""
        world = context.vault.setdefault("world", _World())
        admitted = world.prove(identities, number=context.round, enrolled=context.population, good_for=self.good_for)
        return report(context, identities, admitted)


class _World:
    """Authority, gate and all holders of keys, made when they first appear."""

    def __init__(self) -> None:
        self._authority = Authority()
        self._gate = Gate(self._authority.public)
        self._holders: dict[int, Holder] = {}
        self._proved: dict[int, int] = {}

    def prove(self, identities: tuple[int, ...], *, number: int, enrolled: int, good_for: int) -> tuple[int, ...]:
        nonce = self._gate.challenge(number)
        for identity in identities:
            if number - self._proved.get(identity, -good_for) < good_for:
                continue
            answer = self._holder(identity, enrolled).answer(number=number, nonce=nonce)
            if self._gate.accepts(identity, answer):
                self._proved[identity] = number
        return tuple(i for i in identities if number - self._proved.get(i, -good_for) < good_for)

    def _holder(self, identity: int, enrolled: int) -> Holder:
        if identity not in self._holders:
            holder = self._holders[identity] = Holder(identity)
            if identity < enrolled:
                holder.certificate = self._authority.certify(identity, holder.public)
        return self._holders[identity]
