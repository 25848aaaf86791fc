"""The star with staleness bound 0: one server, a cohort per round, everything over one wire."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.federation.coalition import Coalition
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.evaluate import evaluate, hits
from fedsec.federation.mean import mean
from fedsec.federation.optimizers import server_step
from fedsec.federation.population import Population, RoundCohort, draw_cohort, standings
from fedsec.federation.result import TrainingResult
from fedsec.federation.server_side import Server
from fedsec.federation.setup import FederationSetup
from fedsec.federation.stages import Stages
from fedsec.federation.uplink import Uplink
from fedsec.federation.watch import Watch, by_share
from fedsec.federation.wire import Ledger, Transcript, in_precision, parties
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary
from fedsec.protocol.payload import OpenPart, Payload, Plain, Sealed, in_clear
from fedsec.protocol.stage import Cohort, Defense
from fedsec.randomness import derive_seed

CHUNK_BYTES = 128 << 20
"""Updates are trained and summed in chunks of this size where no rule needs the whole matrix."""

OnRound = Callable[[int, int], None]


class Federation:
    """One training: a setup, a stack of defenses, and an adversary or none."""

    def __init__(
        self,
        setup: FederationSetup,
        stack: tuple[Defense, ...] = (),
        *,
        adversary: Adversary | None = None,
        facts: PublicFacts | None = None,
        wanted: Mapping[Topic, frozenset[int]] | None = None,
        engine: str = "auto",
        workers: int = 1,
    ) -> None:
        self.setup = setup = setup.of_stack(stack)
        self.stages = Stages(stack, setup.setting(stack), seed=setup.seed)
        self.transcript = Transcript(wanted or {})
        self.ledger = Ledger()
        self.population = Population.of(
            setup.index,
            fraction=adversary.fraction if adversary else 0.0,
            sybils=adversary.identities if adversary else 0,
            seed=setup.seed,
        )
        self._standings = standings(len(setup.index), seed=setup.seed)
        self.model = setup.initial.clone()
        self._readers = frozenset({"server"})
        self._sealed_model: Payload | None = None
        self._server_state: dict[str, Tensor] = {}
        self._coalition: Coalition | None = None
        self._probe: Examples | None = None
        if adversary is not None:
            if facts is None:
                raise ValueError("an adversary needs the public facts of the federation")
            self._coalition = Coalition(adversary, facts, setup, self.population, engine=engine)
            self._probe = adversary.probe(setup.split.test, setup.info)
        self._server = Server(setup)
        self.stages.agree(setup.model, setup.initial, self._server)
        self._watch = Watch()
        self._holdings: dict[int, tuple[int, int]] = {}
        self._engine, self._workers = engine, workers
        self._present: list[tuple[int, int]] = []
        self._sent: dict[int, Tensor] = {}
        # Where a stage makes every client count once, nobody's number of examples travels.
        once = any(defense.unit_weights for defense in stack)
        self._counts_travel = setup.weighting == "examples" and not once
        self._uplink = Uplink(
            stages=self.stages,
            transcript=self.transcript,
            ledger=self.ledger,
            size=self.model.numel(),
            counts_travel=self._counts_travel,
        )

    def run(self, on_round: OnRound | None = None) -> TrainingResult:
        """Train all rounds.

        Args:
            on_round: called with ``(rounds done, rounds)`` after each round.
        """
        setup = self.setup
        started = time.perf_counter()
        curve: list[tuple[int, float, float]] = []
        probes: list[float] = []
        utility = None
        with self._trainer() as trainer:
            for number in range(setup.rounds):
                self._round(number, trainer)
                if (number + 1) % setup.evaluate_every == 0 or number == setup.rounds - 1:
                    utility = evaluate(setup.model, self.model, setup.split.test)
                    curve.append((number, utility.accuracy, utility.loss))
                    if self._probe is not None:
                        probes.append(evaluate(setup.model, self.model, self._probe).accuracy)
                if on_round is not None:
                    on_round(number + 1, setup.rounds)
            name = trainer.engine
        released = self.stages.release(self.model)
        utility = evaluate(setup.model, released, setup.split.test)
        watch = self._watch.tensors(self.stages.excluded, self.stages.scores, self._holdings, self._within())
        last = setup.rounds - 1
        self.transcript.record(
            Topic.RELEASE,
            last,
            step=9,
            sender="server",
            receivers=frozenset({"public"}),
            payload=_one(released),
        )
        return TrainingResult(
            released=released,
            predictions=utility.predictions,
            rounds=tuple(point[0] for point in curve),
            accuracy=(*(point[1] for point in curve[:-1]), utility.accuracy),
            loss=(*(point[2] for point in curve[:-1]), utility.loss),
            ledger=self.ledger,
            seconds=time.perf_counter() - started,
            engine=name,
            diagnostics={k: float(np.mean(v)) for k, v in sorted(self.stages.diagnostics.items())} | by_share(watch),
            detected=self._detected(),
            present=tuple(self._present),
            events=tuple(self.transcript.events),
            claims=self.stages.claims(),
            compromised=self.population.compromised,
            memory=dict(self._coalition.state) if self._coalition is not None else {},
            probe=hits(setup.model, released, self._probe),
            probes=tuple(probes),
            watch=watch,
        )

    def _trainer(self) -> CohortTrainer:
        return CohortTrainer(
            self.setup.model,
            self.setup.local,
            hooks=self.stages.local_hooks,
            engine=self._engine,
            workers=self._workers,
            device=self.setup.device,
            pool=self.setup.split.clients,
        )

    def _round(self, number: int, trainer: CohortTrainer) -> None:
        setup, stages = self.setup, self.stages
        drawn = self._draw(number)
        stages.participants = tuple(drawn.asked.tolist())
        self._broadcast(number, drawn)
        taken = self.population.controlled[drawn.answered]
        ours, theirs = drawn.answered[~taken].tolist(), drawn.answered[taken].tolist()
        self._present.append((len(theirs), len(ours)))
        awake = [c for c in theirs if self._coalition is not None and self._coalition.acts(number, c)]
        self._watch.heard(number, ours, controlled=False, acting=False)
        self._watch.heard(number, awake, controlled=True, acting=True)
        if self._coalition is not None:
            if set(drawn.asked.tolist()) & set(self._coalition.identities):
                self._coalition.told(number, self.model)
            # a controlled identity that does not attack in this round does what honest ones do
            asleep = [c for c in theirs if c not in set(awake)]
            self._watch.heard(number, asleep, controlled=True, acting=False)
            ours = ours + asleep
        shards = {c: self._shard(c) for c in ours}
        ours = [c for c in ours if len(shards[c]) and self._accepts(number, c, shards[c])]
        if stages.inspects:
            self._sent |= dict.fromkeys(drawn.asked.tolist(), self.model)
        reach = dict(zip(drawn.answered.tolist(), drawn.effort.tolist(), strict=True))
        chunks = self._uploads(number, ours, awake, shards, reach, trainer)
        nobody = Plain(self.model.new_zeros(0, self.model.numel()), self.model.new_zeros(0, dtype=torch.float64))
        cohort = Cohort(chunks, nobody=nobody)
        cohort = stages.preaggregate(cohort, number, model=self.model, server=self._server)
        if stages.rule is None:
            aggregate = mean(cohort, size=setup.model.layout.size, like=self.model)
        else:
            aggregate = stages.aggregate(cohort, number, model=self.model, server=self._server)
        self._apply(number, aggregate, shards)

    def _draw(self, number: int) -> RoundCohort:
        """Who takes part: identities that have joined and are let in."""
        pool = None
        coalition = self._coalition
        late = coalition is not None and number < coalition.adversary.joins and self.population.sybils > 0
        if late or self.stages.admits:
            there = len(self.population.index) if late else self.population.size
            admitted = self.stages.admit(tuple(range(there)), number)
            pool = np.sort(np.array(admitted, dtype=np.int64))
            self.ledger.refuse("not admitted", there - len(pool))
            outside = np.setdiff1d(np.arange(there), pool)
            taken = self.population.controlled[outside]
            self._watch.heard(number, outside[taken].tolist(), controlled=True, acting=True)
            self._watch.heard(number, outside[~taken].tolist(), controlled=False, acting=False)
            self.stages.excluded.extend((number, int(client)) for client in outside)
        sure = coalition.sure(number) if coalition is not None else ()
        if pool is not None:
            sure = tuple(c for c in sure if c in set(pool.tolist()))
        return draw_cohort(
            self.population,
            self.setup.participation,
            round_index=number,
            seed=self.setup.seed,
            admitted=pool,
            sure=sure,
        )

    def _shard(self, client: int) -> Shard:
        """What an identity that behaves honestly trains on; a Sybil shares a controlled client's data."""
        if client >= len(self.population.index) and self._coalition is not None:
            return self._coalition.clean(client)
        shard = self.setup.shard(client, self.stages.data_hooks)
        if client not in self._holdings:
            labels = shard.examples().y
            classes = self.setup.info.task == "classification" and len(labels) > 0
            self._holdings[client] = (len(shard), int(labels.mode().values) if classes else -1)
        return shard

    def _accepts(self, number: int, client: int, shard: Shard) -> bool:
        """Whether a client trains on the model that it was sent; one that refuses sends nothing and is counted."""
        if not self.stages.inspects:
            return True
        agreed, previous = self.setup.model, self._sent.get(client, self.setup.initial)
        reason = self.stages.refuses(self.model, previous, shard.examples(), number, client, sent=agreed, agreed=agreed)
        self.ledger.refuse(f"{reason} refused the model", 1 if reason else 0)
        return not reason

    def _broadcast(self, number: int, drawn: RoundCohort) -> None:
        size = self.model.numel() * self.model.element_size()
        size = size if self._sealed_model is None else self._sealed_model.nbytes(0)
        self.ledger.downloads += len(drawn.asked)
        self.ledger.download_bytes += size * len(drawn.asked)
        self.ledger.dropped += len(drawn.asked) - len(drawn.answered)
        if not self.transcript.wants(Topic.BROADCAST, number):
            return
        clear = _one(self.model)
        # Clients that hold no key get the model in clear from whoever opens it; the server is passed by.
        opener = "server" if {"server", "client"} & self.stages.holders else min(self.stages.holders)
        sealed = self._sealed_model if opener == "server" else None
        if isinstance(sealed, Sealed) and sealed.open_part is not None:
            # who reads sums of the open coordinates knows the model there, and elsewhere the initial one
            known = _one(torch.where(sealed.open_part.where, self.model, self.setup.initial))
            known = replace(known, code=sealed.open_part.plain.code)
            sealed = replace(sealed, open_part=OpenPart(known, sealed.open_part.where))
        self.transcript.record(
            Topic.BROADCAST,
            number,
            step=0,
            sender="server" if self._sealed_model is None else opener,
            receivers=parties(drawn.asked.tolist()),
            payload=clear if sealed is None else sealed,
            opened=None if sealed is None else clear,
        )

    def _uploads(
        self,
        number: int,
        ours: list[int],
        theirs: list[int],
        shards: dict[int, Shard],
        reach: dict[int, float],
        trainer: CohortTrainer,
    ) -> Iterator[tuple[tuple[int, ...], Payload]]:
        """Accepted uploads, chunk by chunk: train, craft, seal, check, record, stages of the server."""
        chunk = max(1, CHUNK_BYTES // (self.model.numel() * self.model.element_size()))
        needs_all = self._coalition is not None and self._coalition.adversary.omniscience and bool(theirs)
        if needs_all:
            chunk = max(len(ours), 1)
        rows: list[Tensor] = []
        for start in range(0, len(ours), chunk):
            part = ours[start : start + chunk]
            values = self._train(trainer, number, part, [shards[c] for c in part], reach)
            sizes = [len(shards[c]) for c in part]
            yield from self._uplink.send(number, part, values, sizes, bound=True, heard=rows if needs_all else None)
        if theirs and self._coalition is not None:
            seen = torch.cat(rows) if rows else None
            values, sizes = self._attack(self._coalition, number, theirs, seen, reach, trainer)
            yield from self._uplink.send(number, theirs, values, sizes, bound=self._coalition.adversary.honest_stages)

    def _attack(
        self,
        coalition: Coalition,
        number: int,
        theirs: list[int],
        seen: Tensor | None,
        reach: dict[int, float],
        trainer: CohortTrainer,
    ) -> tuple[Tensor, list[int]]:
        """What the controlled identities send ``(k, d)``, and their numbers of examples."""
        poisoned = [coalition.shard(c) for c in theirs]
        sizes = [len(shard) for shard in poisoned]
        if coalition.adversary.honest_stages and not coalition.adversary.flips_coins:
            # only their data are not their own: the clients themselves run every stage, those before training too
            hooks = self.stages.data_hooks
            poisoned = [self.setup.hooked(c, shard, hooks) for c, shard in zip(theirs, poisoned, strict=True)]
            own = self._train(trainer, number, theirs, poisoned, reach)
            sizes = [len(shard) for shard in poisoned]
        else:
            own = coalition.train(number, theirs, poisoned, self.model, self._limits(theirs, poisoned, reach))
        return coalition.craft(number, theirs, own, sizes, self.model, seen), sizes

    def _train(
        self, trainer: CohortTrainer, number: int, clients: list[int], shards: list[Shard], reach: dict[int, float]
    ) -> Tensor:
        seeds = [derive_seed(self.setup.seed, "train", number, client) for client in clients]
        limits = self._limits(clients, shards, reach)
        places = [self._standing(client) for client in clients]
        updates = trainer.train(self.model, shards, seeds, max_steps=limits, round_index=number, standings=places)
        self.stages.note_steps(trainer.reports)
        return updates

    def _standing(self, client: int) -> float:
        """Where a client stands among all; a Sybil stands with a client."""
        return float(self._standings[client % len(self._standings)])

    def _within(self) -> dict[int, int]:
        """Which clients run every local hook that only a share of them runs; empty if there is no such hook."""
        shares = [hook.share for hook in self.stages.local_hooks if hook.share < 1.0]
        if not shares:
            return {}
        return {client: int(place < min(shares)) for client, place in enumerate(self._standings.tolist())}

    def _limits(self, clients: list[int], shards: list[Shard], reach: dict[int, float]) -> list[int] | None:
        """Steps of each client if there are stragglers among them."""
        if all(reach[c] >= 1.0 for c in clients):
            return None
        local = self.setup.local
        return [max(1, int(reach[c] * local.steps(len(s)))) for c, s in zip(clients, shards, strict=True)]

    def _apply(self, number: int, aggregate: Payload, shards: dict[int, Shard]) -> None:
        steps = self.stages.opening(aggregate, number, ())
        self.ledger.upload_bytes += self.stages.protocol["up"]
        self.ledger.download_bytes += self.stages.protocol["down"]
        self.stages.protocol = dict.fromkeys(self.stages.protocol, 0)
        opened = steps[-1]
        if not isinstance(opened, Plain):
            raise TypeError(f"nobody opened the {opened.kind} aggregate; the planner refuses such stacks")
        readable = next(step for step in steps if isinstance(step, Plain))
        sealed = not isinstance(aggregate, Plain)
        examples = sum(len(shard) for shard in shards.values())
        self.transcript.record(
            Topic.AGGREGATE,
            number,
            step=2,
            sender="server",
            receivers=self.stages.holders,
            payload=aggregate,
            about={"examples": examples} if self._counts_travel and in_clear(aggregate) is not None else {},
            opened=in_precision(readable, self.model.dtype) if sealed else None,
        )
        # Behind sealed uploads the server forwards the sealed aggregate: it never holds the next model in clear.
        self._sealed_model = aggregate if sealed and "server" not in self.stages.holders else self._sealed_model
        step = self.setup.server
        self.model, self._server_state = server_step(
            step.optimizer,
            self.model,
            opened.values[0].to(self.model),
            self._server_state,
            learning_rate=step.learning_rate,
            momentum=step.momentum,
            beta1=step.beta1,
            beta2=step.beta2,
            tau=step.tau,
            trainable=self.setup.model.layout.trainable,
        )

    def _detected(self) -> tuple[tuple[int, int], ...]:
        counts = [[0, 0] for _ in range(self.setup.rounds)]
        for number, client in self.stages.excluded:
            counts[number][0 if self.population.controlled[client] else 1] += 1
        return tuple((a, b) for a, b in counts)


def _one(vector: Tensor) -> Plain:
    return Plain(vector.unsqueeze(0).clone(), torch.ones(1, dtype=torch.float64))
