"""A stack of defenses at work: which stage runs where, with which memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.models.flat import FlatModel
from fedsec.protocol.compose import acts_on_arrival, aggregator, holders_of, seals
from fedsec.protocol.payload import Kind, Payload, Plain
from fedsec.protocol.server import ServerSide
from fedsec.protocol.stage import Cohort, Defense, EnforcedBy, RoundContext, Setting
from fedsec.randomness import derive_seed


@dataclass
class _Memory:
    seed: int
    state: dict[str, Tensor] = field(default_factory=dict)
    vault: dict[str, Any] = field(default_factory=dict)


class Stages:
    """The stages of one training; holds their memory, so that stages themselves hold none."""

    def __init__(self, stack: Sequence[Defense], setting: Setting, *, seed: int) -> None:
        self.stack = tuple(stack)
        self.setting = setting
        self.rule = aggregator(self.stack)
        self.holders = holders_of(self.stack)
        self.data_hooks = tuple(d for d in self.stack if d.implements("data"))
        self.local_hooks = tuple(d for d in self.stack if d.implements("local"))

        self.admits = any(d.implements("admit") for d in self.stack)
        self.inspects = any(d.implements("inspect") for d in self.stack)
        self.participants: tuple[int, ...] = ()
        self.diagnostics: dict[str, list[float]] = {}
        self.excluded: list[tuple[int, int]] = []
        self.protocol = {"up": 0, "down": 0}
        self.scores: dict[tuple[int, int], float] = {}
        self._memory = [_Memory(derive_seed(seed, "stage", i, d.name)) for i, d in enumerate(self.stack)]

    def _context(self, number: int, round_index: int, clients: tuple[int, ...]) -> RoundContext:
        memory = self._memory[number]
        return RoundContext(
            round=round_index,
            rounds=self.setting.rounds,
            clients=clients,
            layout=self.setting.layout,
            population=self.setting.population,
            cohort=self.setting.cohort,
            sampling=self.setting.sampling,
            seed=memory.seed,
            state=memory.state,
            vault=memory.vault,
            participants=self.participants,
        )

    def _note(self, defense: Defense, context: RoundContext) -> None:
        for name, value in context.report.items():
            if name.startswith("excluded:"):
                self.excluded.append((context.round, int(name.partition(":")[2])))
            elif name.startswith("score:"):
                self.scores[context.round, int(name.partition(":")[2])] = float(value)
            else:
                self.diagnostics.setdefault(f"{defense.name}.{name}", []).append(float(value))
        for way in self.protocol:
            self.protocol[way] += int(context.report.get(f"protocol_{way}_bytes", 0.0))

    def note_steps(self, reports: Sequence[Mapping[str, float]]) -> None:
        """Keep what the local steps of clients reported (`fedsec.models.lanes.Lanes.report`)."""
        for report in reports:
            for name, value in report.items():
                self.diagnostics.setdefault(name, []).append(value)

    def agree(self, agreed: FlatModel, model: Tensor, server: ServerSide) -> None:
        """What everybody agrees on before the first round; see `Defense.agree`."""
        for number, defense in enumerate(self.stack):
            if defense.implements("agree"):
                context = replace(self._context(number, 0, ()), agreed=agreed, model=model, server=server)
                defense.agree(context)
                self._note(defense, context)

    def admit(self, identities: tuple[int, ...], round_index: int) -> tuple[int, ...]:
        """The identities that the server lets in."""
        for number, defense in enumerate(self.stack):
            if defense.implements("admit"):
                context = self._context(number, round_index, identities)
                identities = defense.admit(identities, context)
                self._note(defense, context)
        return identities

    def refuses(
        self,
        model: Tensor,
        previous: Tensor,
        shard: Examples,
        round_index: int,
        client: int,
        *,
        sent: FlatModel,
        agreed: FlatModel,
    ) -> str:
        """The name of the stage by which a client refuses the model that it was sent; empty if it trains on it."""
        for number, defense in enumerate(self.stack):
            if defense.implements("inspect"):
                context = replace(self._context(number, round_index, (client,)), sent=sent, agreed=agreed)
                accepted = defense.inspect(model, previous, shard, context)
                self._note(defense, context)
                if not accepted:
                    return defense.name
        return ""

    def before_upload(self, update: Plain, round_index: int, clients: tuple[int, ...], *, bound: bool) -> Payload:
        """What clients do to updates before upload; substituted clients are bound by `format` stages only."""
        payload: Payload = update
        for number, defense in enumerate(self.stack):
            if seals(defense) and (bound or defense.enforcement == EnforcedBy.FORMAT):
                context = replace(self._context(number, round_index, clients), bound=bound)
                payload = defense.seal(payload, context)
                self._note(defense, context)
        return payload

    def in_clear(self, update: Plain, round_index: int, clients: tuple[int, ...]) -> Plain:
        """What honest clients would upload if nothing sealed it: for an adversary who simulates them."""
        payload: Payload = update
        for number, defense in enumerate(self.stack):
            if seals(defense) and defense.emits in (None, Kind.PLAIN) and isinstance(payload, Plain):
                # without memory: whom the adversary simulates took part in no earlier round
                context = replace(self._context(number, round_index, clients), state={})
                payload = defense.seal(payload, context)
        if not isinstance(payload, Plain):
            raise TypeError("a stage that says that it leaves updates plain did not")
        return payload

    def on_arrival(self, payload: Payload, round_index: int, clients: tuple[int, ...]) -> Payload:
        """What the server does to each upload."""
        for number, defense in enumerate(self.stack):
            if defense.implements("receive") and acts_on_arrival(defense):
                context = self._context(number, round_index, clients)
                payload = defense.receive(payload, context)
                self._note(defense, context)
        return payload

    def preaggregate(self, cohort: Cohort, round_index: int, *, model: Tensor, server: ServerSide) -> Cohort:
        """The rows that the rule works on, after every mixing stage in the order of the stack.

        Args:
            cohort: the uploads.
            round_index: the round.
            model: ``(d,)`` global model of the round.
            server: what the server can do.
        """
        for number, defense in enumerate(self.stack):
            if defense.implements("preaggregate") and cohort.matrix()[0]:
                context = self._at_server(number, cohort, round_index, model, server)
                cohort = defense.preaggregate(cohort, context)
                self._note(defense, context)
        return cohort

    def aggregate(self, cohort: Cohort, round_index: int, *, model: Tensor, server: ServerSide) -> Payload:
        """What the stack's own rule makes of the rows; arguments as for `preaggregate`.

        Raises:
            ValueError: the stack has no rule of its own.
        """
        if self.rule is None:
            raise ValueError("this stack has no aggregation rule of its own")
        context = self._at_server(self.stack.index(self.rule), cohort, round_index, model, server)
        aggregate = self.rule.aggregate(cohort, context)
        self._note(self.rule, context)
        return aggregate

    def _at_server(
        self, number: int, cohort: Cohort, round_index: int, model: Tensor, server: ServerSide
    ) -> RoundContext:
        context = self._context(number, round_index, ())
        return replace(context, model=model, server=server, members=cohort.members)

    def opening(self, aggregate: Payload, round_index: int, clients: tuple[int, ...]) -> list[Payload]:
        """The aggregate after each opening stage, in reverse order of the stack; the last one is applied."""
        steps = [aggregate]
        for number in reversed(range(len(self.stack))):
            defense = self.stack[number]
            if defense.implements("open"):
                context = self._context(number, round_index, clients)
                steps.append(defense.open(steps[-1], context))
                self._note(defense, context)
        return steps

    def peek(self, payload: Payload, round_index: int, clients: tuple[int, ...]) -> Plain | None:
        """What the key holders would read of one row, for coalitions that hold the key."""
        if isinstance(payload, Plain):
            return None
        for number in reversed(range(len(self.stack))):
            defense = self.stack[number]
            if defense.emits not in (None, Kind.PLAIN) and defense.implements("open"):
                opened = defense.open(payload, self._context(number, round_index, clients))
                return opened if isinstance(opened, Plain) else None
        return None

    def release(self, model: Tensor) -> Tensor:
        """What is published."""
        for number, defense in enumerate(self.stack):
            if defense.implements("release"):
                context = self._context(number, self.setting.rounds - 1, ())
                model = defense.release(model, context)
                self._note(defense, context)
        return model

    def claims(self) -> list[dict[str, float | str]]:
        """What each defense claims after the whole training."""
        claims = [{"defense": d.name, **d.claims(self.setting)} for d in self.stack]
        return [claim for claim in claims if len(claim) > 1]
