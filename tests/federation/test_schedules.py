"""When an adversary acts, who is in the cohort, what its clients train on and with which stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsec.audit.challenge import public_facts
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.protocol.drill import Drill
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.protocol.stage import Defense, Guarantee, RoundContext
from fedsec.threat import Capability, Knowledge, Stage, ThreatModel

THREAT = ThreatModel(
    story="test",
    position="client:0",
    knowledge=frozenset[Knowledge](),
    capabilities=frozenset({Capability.MODEL_CONTROL}),
    stage=Stage.TRAINING,
)


@dataclass(frozen=True, kw_only=True)
class Scheduled(Adversary):
    """Sends ones in the rounds in which it acts; notes what it was asked."""

    fraction: Annotated[float, Field(description="share")] = 0.25
    identities: Annotated[int, Field(description="Sybils")] = 0
    joins: Annotated[int, Field(description="round")] = 0
    active: Annotated[tuple[int, ...], Field(description="rounds")] = (0, 1, 2)
    sure: Annotated[tuple[int, ...], Field(description="places")] = ()
    honest: Annotated[bool, Field(description="clients")] = False
    drills: list[Drill] = field(default_factory=list)
    views: list[CoalitionView] = field(default_factory=list)
    name: ClassVar[str] = "scheduled"
    threat: ClassVar[ThreatModel] = THREAT
    judge: ClassVar[str] = "availability"

    @property
    def honest_stages(self) -> bool:
        return self.honest

    def acts(self, round_index: int, place: int) -> bool:
        return round_index in self.active

    def attends(self, round_index: int) -> tuple[int, ...]:
        return self.sure

    def poison_at(self, place: int, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        return Examples(shard.x, torch.full_like(shard.y, place % 10), shard.attributes)

    def train(self, drill: Drill, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        self.drills.append(drill)
        return drill.train()

    def probe(self, test: Examples, info: DatasetInfo) -> Examples | None:
        return Examples(test.x, (test.y + 1) % 10)

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        self.views.append(coalition)
        return torch.ones_like(coalition.own)


@dataclass(frozen=True, kw_only=True)
class Doorman(Defense):
    """Lets real clients in, and notes how often it was asked; clients halve what they train on."""

    name: ClassVar[str] = "doorman"
    summary: ClassVar[str] = "test"
    family: ClassVar[str] = "test"
    guarantee: ClassVar[Guarantee] = Guarantee(protects="", against="", assuming="")
    asked: list[int] = field(default_factory=list)

    def admit(self, identities: tuple[int, ...], context: RoundContext) -> tuple[int, ...]:
        self.asked.append(len(identities))
        return tuple(i for i in identities if i < context.population)


@dataclass(frozen=True, kw_only=True)
class Halves(Defense):
    """Clients train on the first half of their data."""

    name: ClassVar[str] = "halves"
    summary: ClassVar[str] = "test"
    family: ClassVar[str] = "test"
    guarantee: ClassVar[Guarantee] = Guarantee(protects="", against="", assuming="")
    sizes: list[int] = field(default_factory=list)

    def data(self, shard: Examples, *, generator: torch.Generator) -> Examples:
        self.sizes.append(len(shard))
        return shard.take(range(len(shard) // 2))


def run(setup: Any, adversary: Adversary | None, stack: tuple[Defense, ...] = ()) -> tuple[Any, Any]:
    facts = None if adversary is None else public_facts(setup, stack, adversary)
    federation = Federation(setup, stack, adversary=adversary, facts=facts)
    return federation.run(), federation


def test_an_adversary_that_never_acts_changes_nothing(setup) -> None:
    honest, _ = run(setup, None)
    asleep, _ = run(setup, Scheduled(active=()))
    torch.testing.assert_close(asleep.released, honest.released, rtol=0, atol=1e-6)
    assert not asleep.watch["acting"].any()
    assert int(asleep.watch["controlled"].sum()) == 2 * setup.rounds


def test_it_acts_in_its_rounds_and_is_told_where_it_stands(setup) -> None:
    adversary = Scheduled(active=(1, 2))
    result, federation = run(setup, adversary)
    acting = result.watch["acting"].bool()
    assert sorted(set(result.watch["round"][acting].tolist())) == [1, 2]
    assert [drill.round for drill in adversary.drills] == [1, 2]
    assert adversary.drills[0].places == (0, 1)
    controlled = np.flatnonzero(federation.population.controlled).tolist()
    assert list(adversary.drills[0].clients) == controlled
    # it was sent the model of round 0 and remembers it
    assert torch.equal(adversary.drills[0].previous, setup.initial)
    assert not torch.equal(adversary.drills[1].previous, setup.initial)
    assert adversary.views[0].places == (0, 1)
    assert [int(shard.y[0]) for shard in adversary.drills[0].shards] == [0, 1]
    torch.testing.assert_close(adversary.drills[0].clean[0].y, setup.shard(controlled[0]).examples().y)


def test_a_drill_trains_from_any_start_like_everybody(setup) -> None:
    adversary = Scheduled()
    run(setup, adversary)
    drill = adversary.drills[0]
    own = drill.train()
    torch.testing.assert_close(drill.train(torch.stack([drill.model, drill.model])), own)
    assert not torch.equal(drill.train(attempt=1), own)
    frozen = drill.train(local=dataclasses.replace(drill.local, learning_rate=0.0))
    assert torch.equal(frozen, torch.zeros_like(own))
    still = drill.train(wrap=lambda step: lambda lanes, x, y: tuple(0 * g for g in step(lanes, x, y)))
    assert torch.equal(still, torch.zeros_like(own))


def test_who_is_sure_to_come_takes_another_clients_place(make_setup) -> None:
    setup = make_setup(participation=Participation(clients_per_round=2))
    adversary = Scheduled(sure=(1,))
    result, federation = run(setup, adversary)
    one = int(np.flatnonzero(federation.population.controlled)[1])
    heard = result.watch
    for number in range(setup.rounds):
        there = heard["client"][heard["round"] == number].tolist()
        assert one in there
        assert len(there) == 2


def test_sybils_join_late_and_are_refused_before_the_cohort_is_drawn(make_setup) -> None:
    setup = make_setup(participation=Participation(clients_per_round=4))
    late, _ = run(setup, Scheduled(identities=40, joins=2))
    sybils = late.watch["client"] >= 8
    assert set(late.watch["round"][sybils].tolist()) == {2}
    doorman = Doorman()
    refused, _ = run(setup, Scheduled(identities=40), (doorman,))
    assert doorman.asked == [48] * setup.rounds
    assert refused.ledger.refused == {"not admitted": 40 * setup.rounds}
    # nobody's place was taken: cohorts are those of a federation that has no Sybils
    alone, _ = run(setup, Scheduled())
    assert [sum(pair) for pair in refused.present] == [4] * setup.rounds
    assert refused.present == alone.present
    torch.testing.assert_close(refused.released, alone.released)
    kept_out = refused.watch["excluded"].bool() & (refused.watch["client"] >= 8)
    assert int(kept_out.sum()) == 40 * setup.rounds


def test_honest_clients_with_poisoned_data_run_what_clients_run(setup) -> None:
    free, honest = Halves(), Halves()
    run(setup, Scheduled(), (free,))
    adversary = Scheduled(honest=True)
    result, _ = run(setup, adversary, (honest,))
    assert len(honest.sizes) == len(free.sizes) + 2 * setup.rounds
    assert adversary.drills == []  # it has no say in how they train
    assert result.released.isfinite().all()


def test_the_model_is_asked_for_the_labels_that_the_adversary_wants(setup) -> None:
    result, _ = run(setup, Scheduled(active=()))
    wanted = (setup.split.test.y + 1) % 10
    assert torch.equal(result.probe, result.predictions == wanted)
    assert len(result.probes) == len(result.rounds)
    assert result.probes[-1] == float((result.predictions == wanted).double().mean())


def test_what_a_defense_says_is_kept_by_round_and_identity(setup) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Suspects(Doorman):
        def aggregate(self, cohort: Any, context: RoundContext) -> Any:
            clients, payload = cohort.matrix()
            context.report.update({f"score:{client}": float(client) for client in clients})
            context.report[f"excluded:{clients[0]}"] = 1.0
            return payload.rows([1])

    result, _ = run(setup, Scheduled(), (Suspects(),))
    watch = result.watch
    assert torch.equal(watch["score"], watch["client"].double())
    assert int(watch["excluded"].sum()) == setup.rounds
    sizes = {int(c): int(n) for c, n in zip(watch["client"], watch["examples"], strict=True)}
    assert all(n == 20 for c, n in sizes.items() if n)
