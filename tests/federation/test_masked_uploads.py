"""Behind secure aggregation a federation learns the same, and single uploads are readable to coalitions only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedsec.audit.transcripts import pack, unpack
from fedsec.defenses.secret_sharing.plugin import SecretSharing
from fedsec.defenses.secure_aggregation.differencing import solved_by_differencing
from fedsec.defenses.secure_aggregation.plugin import SecureAggregation
from fedsec.federation import rounds
from fedsec.federation.population import Participation
from fedsec.federation.rounds import Federation
from fedsec.federation.setup import FederationSetup, ServerStep
from fedsec.federation.training import LocalTraining
from fedsec.protocol.events import Topic
from fedsec.protocol.stage import Defense
from fedsec.protocol.view import project

WANTED = {Topic.UPLOAD: frozenset({0}), Topic.AGGREGATE: frozenset({0}), Topic.BROADCAST: frozenset({0, 1})}


@pytest.mark.parametrize("defense", [SecureAggregation(), SecureAggregation(neighbours=4, ring=64), SecretSharing()])
def test_the_model_is_that_of_the_plain_mean(make_setup: Callable[..., FederationSetup], defense: Defense) -> None:
    setup = make_setup()
    plain, masked = Federation(setup).run(), Federation(setup, (defense,)).run()
    assert (plain.released - masked.released).abs().max() < 1e-5
    assert plain.accuracy == masked.accuracy
    again = Federation(setup, (defense,)).run()
    assert torch.equal(masked.released, again.released)
    assert masked.diagnostics[f"{defense.name}.saturated_share"] == 0.0


def test_rows_arrive_in_chunks_of_any_size(
    make_setup: Callable[..., FederationSetup], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(rounds=1)
    whole = Federation(setup, (SecureAggregation(),), wanted=WANTED).run()
    monkeypatch.setattr(rounds, "CHUNK_BYTES", 1)
    parts = Federation(setup, (SecureAggregation(),), wanted=WANTED).run()
    assert torch.equal(whole.released, parts.released)
    assert parts.ledger.upload_bytes == whole.ledger.upload_bytes


def seen(events: Any, position: str, topic: Topic) -> int:
    """How many events of a topic a position reads."""
    return len(project(events, position, [topic])[0].events)


def test_who_reads_uploads(make_setup: Callable[..., FederationSetup]) -> None:
    """8 clients with 7 neighbours each: 5 of them open the uploads of the other three; the sum is the server's."""
    result = Federation(make_setup(rounds=2), (SecureAggregation(),), wanted=WANTED).run()
    packed = pack(result.events)
    for events in (result.events, unpack(packed.document, packed.tensors)):
        assert seen(events, "server", Topic.UPLOAD) == 0
        assert seen(events, "server+client:0+client:1+client:2+client:3", Topic.UPLOAD) == 0
        assert seen(events, "server+client:0+client:1+client:2+client:3+client:4", Topic.UPLOAD) == 3
        assert seen(events, "client:0+client:1+client:2+client:3+client:4", Topic.UPLOAD) == 0
        assert seen(events, "server", Topic.AGGREGATE) == 1
        assert seen(events, "client:0", Topic.AGGREGATE) == 0
        _, denied = project(events, "server", [Topic.UPLOAD])
        assert [d.reason for d in denied] == ["masked: server receives it and cannot open it"]
    plain = Federation(make_setup(rounds=2), wanted=WANTED).run()
    opened = project(result.events, "server+client:0+client:1+client:2+client:3+client:4", [Topic.UPLOAD])[0].events[0]
    (true,) = (e for e in plain.events if e.topic == Topic.UPLOAD and e.sender == opened.sender)
    assert (opened.values - true.payload.values[0]).abs().max() < 1e-4  # type: ignore[union-attr]


def test_all_servers_together_read_shares(make_setup: Callable[..., FederationSetup]) -> None:
    result = Federation(make_setup(rounds=1), (SecretSharing(servers=3),), wanted=WANTED).run()
    packed = pack(result.events)
    events = unpack(packed.document, packed.tensors)
    assert seen(events, "server+helper:1", Topic.UPLOAD) == 0
    assert seen(events, "server+helper:1+helper:2", Topic.UPLOAD) == 8
    assert seen(events, "server", Topic.AGGREGATE) == 1


def test_clients_that_vanish_are_recovered(make_setup: Callable[..., FederationSetup]) -> None:
    how = Participation(clients_per_round=20, dropouts=0.2)
    setup = make_setup(clients=20, train=200, participation=how)
    plain, masked = Federation(setup).run(), Federation(setup, (SecureAggregation(active_server=False),)).run()
    assert masked.ledger.dropped == plain.ledger.dropped > 0
    assert masked.diagnostics["secure-aggregation.recovered"] > 0
    assert masked.diagnostics["secure-aggregation.aborted"] == 0.0
    assert (plain.released - masked.released).abs().max() < 1e-5


def test_an_aborted_round_leaves_the_model(make_setup: Callable[..., FederationSetup]) -> None:
    how = Participation(clients_per_round=8, dropouts=0.6)
    setup = make_setup(participation=how)
    result = Federation(setup, (SecureAggregation(),)).run()
    assert result.diagnostics["secure-aggregation.aborted"] == 1.0
    assert torch.equal(result.released, setup.initial)


def test_weights_that_do_not_fit_are_found_before_training(make_setup: Callable[..., FederationSetup]) -> None:
    defense = SecureAggregation(max_weight=8)
    setup = make_setup()
    assert "a client weighs 20" in defense.problems(setup.setting((defense,)))[0][0]
    once = dataclasses.replace(setup, weighting="uniform")
    assert not defense.problems(once.setting((defense,)))


def test_overlapping_cohorts_give_single_clients_away(make_setup: Callable[..., FederationSetup]) -> None:
    """What masking cannot stop: cohorts of different sizes, a model that hardly moves, sums that are open."""
    setup = make_setup(
        clients=6,
        rounds=10,
        participation=Participation(clients_per_round=5, sampling="poisson"),
        local=LocalTraining(epochs=1, batch_size=None, learning_rate=0.1),
        server=ServerStep(learning_rate=1e-6),
    )
    every = frozenset(range(10))
    plain = Federation(setup, wanted={Topic.UPLOAD: every}).run()
    masked = Federation(setup, (SecureAggregation(),), wanted={Topic.UPLOAD: every, Topic.AGGREGATE: every}).run()
    assert seen(masked.events, "server", Topic.UPLOAD) == 0
    aggregates = project(masked.events, "server", [Topic.AGGREGATE])[0].events
    sums = torch.stack([event.values.double() * event.weight for event in aggregates])
    # who takes part is no secret from the server
    cohorts = [[int(e.sender.partition(":")[2]) for e in masked.events if e.topic == Topic.UPLOAD and e.round == r]
               for r in sorted(every)]  # fmt: skip
    solved = solved_by_differencing(sums, cohorts)
    truth = {e.sender: e.payload for e in plain.events}
    assert len(solved) >= 4
    for client, update in solved.items():
        own = truth[f"client:{client}"].values[0].double()  # type: ignore[union-attr]
        assert torch.cosine_similarity(update, own, dim=0) > 0.99
    same = Federation(make_setup(clients=6, rounds=4), (SecureAggregation(),), wanted={Topic.AGGREGATE: every}).run()
    totals = torch.stack([e.values for e in project(same.events, "server", [Topic.AGGREGATE])[0].events])
    assert solved_by_differencing(totals, [range(6)] * 4) == {}


def test_the_protocols_own_messages_are_counted_on_the_wire(make_setup: Callable[..., FederationSetup]) -> None:
    """Keys, shares, agreement and revelation, which grow with the clients, beside the rows themselves."""
    setup = make_setup(clients=6, rounds=1)
    plain, masked = (Federation(setup, stack).run().ledger for stack in ((), (SecureAggregation(),)))
    rows = 6 * 4 * (setup.model.layout.size + 1)
    assert plain.upload_bytes == rows
    # at least two keys, and two shares of each of five neighbours
    assert masked.upload_bytes > rows + 6 * (2 * 32 + 5 * 2 * 32)
    assert masked.download_bytes > plain.download_bytes + 6 * 5 * 2 * 32
