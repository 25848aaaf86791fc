"""The harness of malicious servers: who is asked, who refuses, what is sealed, what the report says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from planted_scene import attacked, conv, federation, mlp

from fedsec.attacks.inversion.linear_layer import LinearLayerInversion
from fedsec.attacks.malicious.robbing_the_fed import RobbingTheFed
from fedsec.audit.bench import Workbench
from fedsec.audit.build import Builder
from fedsec.audit.plan import make_plan
from fedsec.audit.planted import plant
from fedsec.config import config_from
from fedsec.defenses.clipping.plugins import ClipLayer, ClipNorm
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.federation.rounds import Federation
from fedsec.federation.training import LocalTraining
from fedsec.protocol.events import Topic
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.parties import Planted
from fedsec.protocol.stage import Defense, Guarantee
from fedsec.protocol.view import project


@dataclass(frozen=True, kw_only=True)
class OddRefuse(Defense):
    """Clients of odd number refuse whatever they are sent (all of them, if so told)."""

    name: ClassVar[str] = "odd-refuse"
    summary: ClassVar[str] = "Refuses"
    family: ClassVar[str] = "model inspection"
    guarantee: ClassVar[Guarantee] = Guarantee(protects="-", against="-", assuming="-")

    everyone: bool = False

    def inspect(self, model, previous, shard, context):
        assert context.sent is not None
        assert context.agreed is not None
        assert model.shape == (context.layout.size,)
        assert previous.shape == (context.agreed.layout.size,)
        assert len(shard) > 0
        return not self.everyone and context.clients[0] % 2 == 0


class Nothing(RobbingTheFed):
    """Plants the global model as it is."""

    def plant(self, model, facts, *, generator):
        return Planted(facts.model, model)


def test_an_unchanged_model_gives_the_uploads_of_the_honest_federation():
    local = LocalTraining(epochs=2, batch_size=5, learning_rate=0.1)
    setup = federation(local=local, clients=5)
    wanted = {Topic.UPLOAD: frozenset({0, 1}), Topic.BROADCAST: frozenset({0, 1})}
    stack = (ClipNorm(c=0.05),)
    honest = Federation(setup, stack, wanted=wanted).run().events
    found = plant(setup, stack, Nothing(victims=3, first_rounds=2), position="server", transcript=honest)
    uploads = {(e.round, e.sender): e for e in honest if e.topic == Topic.UPLOAD}
    mine = [e for e in found.events if e.topic == Topic.UPLOAD]
    assert len(mine) == 6
    for event in mine:
        same = uploads[event.round, event.sender]
        assert torch.allclose(event.payload.values, same.payload.values, atol=1e-7)
        assert event.about == same.about
    models = {e.round: e.payload.values[0] for e in honest if e.topic == Topic.BROADCAST}
    for event in found.events:
        if event.topic == Topic.BROADCAST:
            assert torch.equal(event.payload.values[0], models[event.round])


def test_clients_with_the_fewest_examples_come_first():
    setup = federation(rows=lambda y: [range(30), range(30, 34), range(40, 50), range(60, 67)])
    scene = attacked(setup, RobbingTheFed(bins=16, victims=2))
    assert {source[1] for source in scene.evidence.sources} == {"client:1", "client:3"}


def test_refusals_are_counted_and_owed():
    scene = attacked(federation(clients=6), RobbingTheFed(bins=32, victims=6), stack=(OddRefuse(),))
    refused = {"client:1", "client:3", "client:5"}
    assert {source[1] for source in scene.planting.refused} == refused
    assert {source[1] for source in scene.evidence.sources} == {f"client:{c}" for c in range(6)}
    assert "3 of 6 clients refused the planted model (odd-refuse)" in scene.planting.notes[1]
    free = attacked(federation(clients=6), RobbingTheFed(bins=32, victims=6))
    units = [{m.name: m.units for m in s.judgement().measurements} for s in (scene, free)]
    assert len(units[0]["coverage"]) == len(units[1]["coverage"]) == 96
    # what the clients that refused still owe are targets that were missed
    assert float(units[0]["identified"].mean()) < 0.75 * float(units[1]["identified"].mean())


def test_if_everybody_refuses_there_is_nothing_to_read():
    setup = federation(clients=3)
    found = plant(setup, (OddRefuse(everyone=True),), RobbingTheFed(bins=32), position="server", transcript=())
    assert found.blocked == "3 of 3 clients refused the planted model (odd-refuse)"
    assert [e.topic for e in found.events] == [Topic.BROADCAST]


def test_who_sends_no_models_plants_none():
    with pytest.raises(NotApplicable, match="does not include the server"):
        plant(federation(), (), RobbingTheFed(), position="client:0", transcript=())


def test_sealed_uploads_are_read_by_those_who_hold_the_key():
    setup = federation(clients=2, each=8)
    stack: tuple[Defense, ...] = (CKKS(),)
    found = plant(setup, stack, RobbingTheFed(bins=32, victims=2), position="server", transcript=())
    view, denied = project(found.events, "server", [Topic.UPLOAD])
    assert not view.events
    assert denied[0].count == 2
    holder = sorted(stack[0].holders)[0]
    scene = attacked(setup, RobbingTheFed(bins=32, victims=2), stack=stack, position=f"server+{holder}")
    assert scene.exact(0.02) > 0.3


def test_a_stack_that_cannot_work_with_the_changed_architecture_says_so():
    class Renamed(RobbingTheFed):
        def plant(self, model, facts, *, generator):
            other = conv()
            from fedsec.models.flat import FlatModel

            made = FlatModel.of(other, task="classification", name="net+other")
            return Planted(made, made.vector())

    with pytest.raises(NotApplicable, match="cannot work with the planted architecture net\\+other"):
        plant(federation(), (ClipLayer(c=1.0, layers=("3",)),), Renamed(), position="server", transcript=())


def test_clipping_by_norm_does_not_help():
    setup = federation(lambda: mlp(128))
    bare = attacked(setup, RobbingTheFed(bins=128)).exact()
    clipped = attacked(setup, RobbingTheFed(bins=128), stack=(ClipNorm(c=0.05),)).exact()
    assert clipped > bare - 0.05 > 0.7


def test_an_inspecting_client_lets_an_honest_model_pass_to_a_passive_attack():
    class Passive(Nothing):
        def run(self, view, facts, *, generator):
            return LinearLayerInversion(max_examples=4).run(view, facts, generator=generator)

    from fedsec.defenses.inspection.inspect_model import InspectModel

    setup = dataclasses.replace(federation(each=1, clients=4))
    scene = attacked(setup, Passive(victims=4), stack=(InspectModel(),))
    assert not scene.planting.refused
    assert scene.exact() == 1.0


AUDIT = """\
version: 1
name: planted
federation:
  dataset: {name: digits, train: 64, holdout: 60, auxiliary: 300, test: 60}
  model: {name: mlp, hidden: [64]}
  clients: 4
  rounds: 2
  local: {epochs: 1, batch_size: 64, learning_rate: 0.1}
attacks:
  - {name: robbing-the-fed, bins: 64, victims: 4}
defenses:
  - none
  - ckks
  - inspect-model
seeds: [0]
"""


def test_an_audit_says_what_the_server_did(tmp_path: Path):
    config = config_from(yaml.safe_load(AUDIT))
    plan = make_plan(config, Builder(config))
    bench = Workbench(config, tmp_path)
    for task in (*plan.trainings, *plan.cells):
        bench.run(task, lambda done, total: None)
    cells = {cell.stack: bench.artifacts.read(cell.key).document for cell in plan.cells}
    open_ = cells["none"]
    assert open_["status"] == "measured"
    assert open_["seen"]["position"] == "server, which sent 4 models of its own making (model control) and"
    assert {event["topic"]: event["count"] for event in open_["seen"]["events"]} == {"Broadcast": 1, "Upload": 4}
    assert "The server sent 4 models of its own making (model control)." in open_["notes"]
    identified = next(row for row in open_["measurements"] if row["name"] == "identified")
    assert identified["alone"]["value"] > 0.7
    assert cells["ckks"]["status"] == "blocked"
    assert "cannot open" in cells["ckks"]["reason"]
    assert cells["inspect-model"]["status"] == "blocked"
    assert cells["inspect-model"]["reason"].startswith("4 of 4 clients refused the planted model")
    assert "which sent 4 models" in cells["inspect-model"]["seen"]["position"]
