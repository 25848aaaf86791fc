"""The round loop: what the wire refuses, what the transcript keeps, and who is bound by what."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from fedsec.audit.challenge import public_facts
from fedsec.defenses.clipping.plugins import ClipNorm
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.defenses.privacy.client_level import ClientLevelDP
from fedsec.federation.population import Participation, Population, draw_cohort
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.protocol.payload import Plain, Sealed
from fedsec.protocol.view import project
from fedsec.threat import Capability, Knowledge, Stage, ThreatModel

THREAT = ThreatModel(
    story="test",
    position="client:0",
    knowledge=frozenset[Knowledge](),
    capabilities=frozenset({Capability.MODEL_CONTROL}),
    stage=Stage.TRAINING,
)


@dataclass(frozen=True, kw_only=True)
class Sends(Adversary):
    """Sends what it is told to."""

    what: Annotated[str, Field(description="what")]
    fraction: Annotated[float, Field(description="share")] = 0.25
    name: ClassVar[str] = "sends"
    threat: ClassVar[ThreatModel] = THREAT
    judge: ClassVar[str] = "availability"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        own = coalition.own
        if self.what == "wrong shape":
            return own[:, :-1]
        if self.what == "own":
            return own
        if self.what == "large":
            return own * 1000.0
        value = {"NaN": float("nan"), "Inf": float("inf"), "huge norm": 1e9}[self.what]
        return own + value


def run(setup: FederationSetup, what: str, stack=()):
    adversary = Sends(what=what)
    facts = public_facts(setup, stack, adversary)
    return Federation(setup, stack, adversary=adversary, facts=facts).run()


@pytest.mark.parametrize("what", ["NaN", "Inf", "huge norm", "wrong shape"])
@pytest.mark.parametrize("stack", [(), (CKKS(),), (ClipNorm(c=1.0, enforced_by="server"),)])
def test_an_absurd_upload_is_refused_counted_and_the_round_goes_on(setup, what, stack) -> None:
    result = run(setup, what, stack)
    assert result.ledger.refused == {what: 2 * setup.rounds}
    assert result.released.isfinite().all()
    assert result.accuracy[-1] > 0.5
    assert result.ledger.uploads == 6 * setup.rounds


def test_client_side_clipping_does_not_bind_an_attacker_and_server_side_clipping_does(setup) -> None:
    honest = Federation(setup).run()
    free = run(setup, "large")
    client = run(setup, "large", (ClipNorm(c=1.0),))
    server = run(setup, "large", (ClipNorm(c=1.0, enforced_by="server"),))
    assert (client.released - honest.released).norm() > 0.5 * (free.released - honest.released).norm()
    assert (server.released - setup.initial).norm() <= setup.rounds * 1.0 + 1e-4


def test_the_transcript_keeps_only_what_is_wanted(setup) -> None:
    federation = Federation(setup, wanted={Topic.UPLOAD: frozenset({1})})
    events = federation.run().events
    assert {(event.topic, event.round) for event in events} == {(Topic.UPLOAD, 1)}
    assert len(events) == 8
    assert all(isinstance(event.payload, Plain) for event in events)


def test_a_round_is_the_weighted_mean_of_its_uploads(setup) -> None:
    wanted = {topic: frozenset(range(3)) for topic in Topic}
    result = Federation(setup, wanted=wanted).run()
    uploads = [event.payload for event in result.events if event.topic == Topic.UPLOAD and event.round == 0]
    weights = torch.stack([upload.weights[0] for upload in uploads])
    values = torch.stack([upload.values[0].double() for upload in uploads])
    aggregate = next(event.payload.values[0] for event in result.events if event.topic == Topic.AGGREGATE)
    torch.testing.assert_close(aggregate.double(), (weights @ values) / weights.sum(), atol=1e-6, rtol=1e-5)
    models = [event.payload.values[0] for event in result.events if event.topic == Topic.BROADCAST]
    torch.testing.assert_close(models[1], models[0] + aggregate)
    assert torch.equal(models[0], setup.initial)


def test_sealed_uploads_can_be_opened_by_the_server_together_with_a_client_only(setup) -> None:
    wanted = {topic: frozenset({0, 1, 2}) for topic in Topic}
    events = Federation(setup, (CKKS(),), wanted=wanted).run().events
    everything = [Topic.UPLOAD, Topic.AGGREGATE, Topic.BROADCAST]
    server, denied = project(events, "server", everything)
    assert {event.topic for event in server.events} <= {Topic.BROADCAST}
    assert all(torch.equal(event.values, setup.initial) for event in server.events), "the initial model is public"
    assert {d.topic for d in denied} == {Topic.UPLOAD, Topic.AGGREGATE, Topic.BROADCAST}
    client, _ = project(events, "client:3", everything)
    assert {event.topic for event in client.events} == set(everything)
    assert {event.sender for event in client.of(Topic.UPLOAD)} == {"client:3"}, "its own upload, nobody else's"
    both, _ = project(events, "server+client:3", everything)
    assert len(both.of(Topic.UPLOAD)) == 8 * 3


def test_planted_values_never_reach_the_server_under_encryption(setup) -> None:
    canary = 0.123456789
    pool = setup.split.clients
    pool.x[setup.index.rows(0)[0]] = canary
    try:
        wanted = {topic: frozenset({0}) for topic in Topic}
        plain = Federation(setup, wanted=wanted).run().events
        single = next(e.payload for e in plain if e.topic == Topic.UPLOAD and e.sender == "client:0")
        # Eight bytes each: four of them turn up in megabytes of ciphertext by chance.
        patterns = [np.full(2, canary, np.float32).tobytes(), np.float64(canary).tobytes()]
        values = single.values[0]
        large = (values.abs() > 1e-3).nonzero().flatten()
        starts = large[:-1][large.diff() == 1][:50].tolist()
        weighted = values.double() * single.weights[0]
        for vector in (values, weighted):
            patterns += [vector[i : i + 2].float().numpy().tobytes() for i in starts]
        patterns += [np.float64(v).tobytes() for v in weighted[starts].tolist()]
        received = [
            event.payload.serialise(0).tobytes()
            for event in Federation(setup, (CKKS(),), wanted=wanted).run().events
            if event.topic == Topic.UPLOAD
        ]
        assert len(received) == 8
        assert all(isinstance(row, bytes) for row in received)
        in_clear = b"".join(e.payload.serialise(0).tobytes() for e in plain if e.topic == Topic.UPLOAD)
        assert any(p in in_clear for p in patterns), "the search finds single updates where they do cross in clear"
        assert not any(pattern in row for pattern in patterns for row in received)
        contexts = [
            event.payload
            for event in Federation(setup, (CKKS(),), wanted=wanted).run().events
            if isinstance(event.payload, Sealed)
        ]
        assert contexts
    finally:
        pool.x[setup.index.rows(0)[0]] = 0.0


def test_server_side_noise_leaves_the_uploads_as_they_were(setup) -> None:
    wanted = {Topic.UPLOAD: frozenset({0}), Topic.AGGREGATE: frozenset({0})}
    clip = Federation(setup, (ClipNorm(c=0.5),), wanted=wanted).run().events
    noisy = Federation(setup, (ClientLevelDP(clip_norm=0.5, noise_multiplier=1.0),), wanted=wanted).run().events
    for a, b in zip(clip, noisy, strict=True):
        if a.topic == Topic.UPLOAD:
            assert torch.equal(a.payload.values, b.payload.values)
    recorded = next(e for e in noisy if e.topic == Topic.AGGREGATE)
    uploads = torch.stack([e.payload.values[0] for e in noisy if e.topic == Topic.UPLOAD])
    torch.testing.assert_close(recorded.payload.values[0], uploads.mean(0), atol=1e-6, rtol=1e-5)


def test_the_result_does_not_depend_on_chunks(setup, monkeypatch) -> None:
    whole = Federation(setup).run().released
    monkeypatch.setattr("fedsec.federation.rounds.CHUNK_BYTES", 3 * setup.initial.numel() * 4)
    torch.testing.assert_close(Federation(setup).run().released, whole, atol=1e-6, rtol=1e-5)


def test_dropouts_stragglers_and_availability_change_who_answers(make_setup) -> None:
    how = Participation(clients_per_round=6, availability=0.8, dropouts=0.2, stragglers=0.3)
    setup = make_setup(participation=how, rounds=5)
    result = Federation(setup).run()
    assert result.ledger.dropped > 0
    assert result.ledger.uploads + result.ledger.dropped == result.ledger.downloads
    assert result.released.isfinite().all()


@pytest.mark.parametrize("dropouts", [0.05, 0.3])
def test_share_of_dropouts(make_setup, dropouts: float) -> None:
    setup = make_setup(clients=16)
    population = Population.of(setup.index, fraction=0.0, sybils=0, seed=1)
    how = Participation(clients_per_round=16, dropouts=dropouts)
    drawn = [draw_cohort(population, how, round_index=r, seed=1) for r in range(200)]
    share = 1 - np.mean([len(d.answered) / len(d.asked) for d in drawn])
    assert abs(share - dropouts) < 4 * np.sqrt(dropouts * (1 - dropouts) / 3200)


def test_poisson_sampling_draws_each_client_by_itself(make_setup) -> None:
    setup = make_setup(clients=16)
    population = Population.of(setup.index, fraction=0.0, sybils=0, seed=1)
    how = Participation(clients_per_round=4, sampling="poisson")
    counts = [len(draw_cohort(population, how, round_index=r, seed=1).asked) for r in range(2000)]
    assert abs(np.mean(counts) - 4) < 0.2
    assert abs(np.var(counts) - 3) < 0.5, "binomial, not fixed"


def test_an_empty_cohort_leaves_the_model_as_it_was(make_setup) -> None:
    setup = make_setup(participation=Participation(clients_per_round=8, dropouts=1.0))
    result = Federation(setup).run()
    assert torch.equal(result.released, setup.initial)


def test_weighted_and_uniform_averages_differ_on_unequal_clients(make_setup) -> None:
    setup = make_setup(clients=2, train=100, rounds=1)
    order = setup.index.order
    unequal = dataclasses.replace(setup.index, offsets=np.array([0, 10, 100]))
    setup = dataclasses.replace(setup, index=unequal)
    assert len(order) == 100
    wanted = {Topic.UPLOAD: frozenset({0})}
    weighted = Federation(setup, wanted=wanted).run()
    uniform = Federation(dataclasses.replace(setup, weighting="uniform")).run()
    first, second = (event.payload.values[0] for event in weighted.events)
    torch.testing.assert_close(weighted.released - setup.initial, 0.1 * first + 0.9 * second, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(uniform.released - setup.initial, 0.5 * (first + second), atol=1e-6, rtol=1e-4)


def test_sybils_join_the_population_and_share_poisoned_data(setup) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Many(Sends):
        name: ClassVar[str] = "many"

        @property
        def identities(self) -> int:
            return 4

    adversary = Many(what="own")
    federation = Federation(setup, adversary=adversary, facts=public_facts(setup, (), adversary))
    result = federation.run()
    assert federation.population.size == 12
    assert result.compromised == pytest.approx(6 / 12)
    assert result.present[0] == (6, 6)
