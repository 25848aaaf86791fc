"""Sybils in federations of the harness: what they cost, when they are there, and whose data they train on."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch

from fedsec.attacks.poisoning.label_flip import LabelFlip, TargetedLabelFlip
from fedsec.attacks.sybil.identities import Sybil
from fedsec.audit.build import Builder
from fedsec.audit.challenge import public_facts
from fedsec.config import config_from
from fedsec.data.examples import Examples
from fedsec.federation.rounds import Federation
from fedsec.protocol.parties import Adversary


@functools.cache
def digits():
    config = config_from(
        {
            "version": 1,
            "federation": {
                "dataset": {"name": "digits", "train": 1000, "test": 400, "auxiliary": 100},
                "model": "softmax",
                "clients": 10,
                "rounds": 8,
                "evaluate_every": 4,
                "local": {"batch_size": 20, "learning_rate": 0.3},
            },
            "attacks": [],
        }
    )
    return Builder(config).setup(0)


@functools.cache
def trained(adversary):
    setup = digits()
    if adversary is None:
        return Federation(setup).run()
    return Federation(setup, adversary=adversary, facts=public_facts(setup, (), adversary)).run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roles(Adversary):
    """Every place has a label of its own, trains twice, and is sure to be there."""

    fraction: float = 0.2
    name: ClassVar[str] = "roles"
    threat = LabelFlip.threat
    judge: ClassVar[str] = "availability"
    taxonomy = LabelFlip.taxonomy

    def poison_at(self, place, shard, facts, *, generator):
        return Examples(shard.x, torch.full_like(shard.y, place % 10), shard.attributes)

    def train(self, drill, facts, *, generator):
        for place, shard in zip(drill.places, drill.shards, strict=True):
            assert set(shard.y.tolist()) == {place % 10}
        first = drill.train()
        return first + drill.train(drill.model + first, attempt=1)

    def probe(self, test, info):
        return test.take([0, 1, 2])

    def attends(self, round_index):
        return (0,)

    def goal(self) -> Mapping[str, int]:
        return {"source": 1, "target": 2}


def test_more_identities_do_more_damage():
    damage = [trained(None).accuracy[-1]]
    damage += [trained(Sybil(carries=LabelFlip(), identities=k, fraction=0.0)).accuracy[-1] for k in (2, 8, 20)]
    assert damage[0] > damage[2] > damage[3]
    assert damage[1] > damage[0] - 0.1
    assert damage[3] < 0.3


def test_sybils_that_poison_nothing_harm_nothing():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Nothing(Roles):
        def poison_at(self, place, shard, facts, *, generator):
            return shard

        def train(self, drill, facts, *, generator):
            return drill.train()

    harmless = trained(Sybil(carries=Nothing(), identities=5, behaviour="own"))
    assert abs(harmless.accuracy[-1] - trained(None).accuracy[-1]) < 0.03


def test_sybils_join_when_they_are_told_to():
    late = trained(Sybil(carries=LabelFlip(), identities=20, fraction=0.0, joins=6))
    watch = late.watch
    there = watch["round"][(watch["client"] >= 10) & (watch["acting"] > 0)]
    assert set(there.tolist()) == {6, 7}
    always = trained(Sybil(carries=LabelFlip(), identities=20, fraction=0.0))
    assert late.accuracy[0] > always.accuracy[0] + 0.3


def test_identities_whose_turn_it_is_not_train_like_honest_ones():
    turns = trained(Sybil(carries=LabelFlip(), identities=20, fraction=0.0, turns=4))
    watch = turns.watch
    sybil = watch["client"] >= 10
    for number in range(8):
        now = sybil & (watch["round"] == number)
        assert int(now.sum()) == 20
        assert int((watch["acting"][now] > 0).sum()) == 5
    always = trained(Sybil(carries=LabelFlip(), identities=20, fraction=0.0))
    assert turns.accuracy[-1] > always.accuracy[-1] + 0.3


def test_roles_training_probe_and_attendance_are_those_of_the_carried_attack():
    carried = Roles()
    adversary = Sybil(carries=carried, identities=3, fraction=0.2, behaviour="own")
    result = trained(adversary)
    assert len(result.probes) == len(result.rounds)
    assert adversary.attends(3) == (0,)
    assert adversary.goal() == carried.goal()
    assert not adversary.honest_stages


def test_sybils_without_a_client_poison_public_data():
    carried = TargetedLabelFlip(source=1, target=7, only_source=True)
    result = trained(Sybil(carries=carried, identities=12, fraction=0.0, behaviour="own"))
    setup = digits()
    asked = setup.split.test.y == 1
    success = float((result.predictions[asked] == 7).double().mean())
    assert success > 0.8
    assert success == pytest.approx(result.probes[-1])
    assert float((trained(None).predictions[asked] == 7).double().mean()) < 0.1
