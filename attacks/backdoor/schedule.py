"""When an adversary attacks: from a round to a round, all of its clients or one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsec.protocol.parties import Adversary

from .texts import Fraction


@dataclass(frozen=True, kw_only=True)
class Scheduled(Adversary):
    """An adversary whose clients behave honestly but for some rounds.

    Two schedules of the literature: every round from ``first_round`` to ``last_round`` (multiple shots, DBA's A-M), and
    with ``shot_every`` one shot of each client in turn (DBA's A-S). What a client does after the last round is
    what honest clients do with its own data, so that the durability of a backdoor can be measured.
    """

    fraction: Fraction = 0.1
    first_round: Annotated[int, Field(ge=0, description="First round in which it attacks, counted from 0")] = 0
    last_round: Annotated[
        int | None, Field(ge=0, description="Last round in which it attacks; empty: until the end")
    ] = None
    shot_every: Annotated[
        int | None,
        Field(
            ge=1,
            description="Rounds between single shots: its client k attacks once, k times this after the first round; "
            "empty: all of its clients attack in every round",
        ),
    ] = None
    sure: Annotated[
        int,
        Field(
            ge=0,
            description="Clients of its that are sure to be drawn in the rounds in which it attacks (of single shots, "
            "the one whose turn it is), which papers assume and no server grants",
        ),
    ] = 0

    def acts(self, round_index: int, place: int) -> bool:
        """Whether it is the turn of a client; see `Adversary.acts`."""
        if round_index < self.first_round or (self.last_round is not None and round_index > self.last_round):
            return False
        return self.shot_every is None or round_index == self.first_round + place * self.shot_every

    def attends(self, round_index: int) -> tuple[int, ...]:
        """The places that are sure to be drawn; see `Adversary.attends`."""
        if not self.sure:
            return ()
        if self.shot_every is None:
            return tuple(place for place in range(self.sure) if self.acts(round_index, place))
        place = (round_index - self.first_round) // self.shot_every
        return (place,) if place >= 0 and self.acts(round_index, place) else ()
