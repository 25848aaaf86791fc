"""Federations in which some clients train adversarially, and one in which some feign robustness, under robust rules."""

import pytest
import torch

from fedsec.attacks.poisoning.masked_robustness import MaskedRobustness
from fedsec.audit.challenge import public_facts
from fedsec.data.partitions import Dirichlet
from fedsec.defenses.adversarial.fast_gradient_training import FGMTraining, FGSMTraining
from fedsec.defenses.adversarial.free_training import FreeTraining
from fedsec.defenses.adversarial.input_gradient_penalty import InputGradientPenalty
from fedsec.defenses.adversarial.pgd_training import PGDTraining
from fedsec.defenses.adversarial.propagate_once import YOPO
from fedsec.defenses.adversarial.trades import Trades
from fedsec.defenses.aggregation.foolsgold import FoolsGold
from fedsec.defenses.aggregation.neighbour_rules import MultiKrum
from fedsec.federation.population import standings
from fedsec.federation.rounds import Federation
from fedsec.protocol.events import Topic
from fedsec.randomness import numpy_generator

CLIENTS, ROUNDS = 10, 3


@pytest.fixture(scope="module")
def setup(make_setup):
    return make_setup(clients=CLIENTS, train=300, rounds=ROUNDS)


def train(setup, stack, adversary=None, engine="auto"):
    facts = public_facts(setup, stack, adversary) if adversary is not None else None
    wanted = {Topic.UPLOAD: frozenset(range(ROUNDS))}
    return Federation(setup, stack, adversary=adversary, facts=facts, wanted=wanted, engine=engine).run()


def first_round(result):
    return {e.sender: e.payload.values[0] for e in result.events if e.topic == Topic.UPLOAD and e.round == 0}


METHODS = [
    FGSMTraining(share=0.3),
    FGMTraining(share=0.3),
    PGDTraining(share=0.3, steps=2),
    Trades(share=0.3, steps=2),
    FreeTraining(share=0.3, replays=2),
    YOPO(share=0.3),
    InputGradientPenalty(share=0.3),
]


@pytest.mark.parametrize("defense", METHODS, ids=lambda d: d.name)
def test_three_of_ten_clients_train_so_and_the_others_send_what_they_would_to_the_bit(setup, defense):
    plain, mixed = first_round(train(setup, ())), first_round(train(setup, (defense,)))
    chosen = {f"client:{client}" for client, place in enumerate(standings(CLIENTS, seed=setup.seed)) if place < 0.3}
    assert len(chosen) == 3
    assert {name for name in plain if not torch.equal(plain[name], mixed[name])} == chosen
    slow = first_round(train(setup, (defense,), engine="sequential"))
    for name, update in mixed.items():
        torch.testing.assert_close(slow[name], update, rtol=1e-3, atol=1e-5)


def test_the_federation_says_how_those_fare_who_train_adversarially(setup):
    result = train(setup, (PGDTraining(share=0.3, eps=0.2, steps=3), MultiKrum(fraction=0.2)))
    found = {name: value for name, value in result.diagnostics.items() if name.startswith("share.")}
    assert set(found) == {
        "share.within",
        *(f"share.{group}.{what}" for group in ("within", "outside") for what in ("dropped", "score")),
    }
    assert found["share.within"] == pytest.approx(0.3)
    # two of ten are dropped in every round, whoever they are
    assert 0.3 * found["share.within.dropped"] + 0.7 * found["share.outside.dropped"] == pytest.approx(0.2)
    everybody = train(setup, (PGDTraining(eps=0.2, steps=3), MultiKrum(fraction=0.2)))
    assert not any(name.startswith("share.") for name in everybody.diagnostics)


def test_logits_a_hundred_times_as_large_are_dropped_by_distance_and_by_likeness(make_setup):
    partition = Dirichlet(alpha=1.0)
    plain = make_setup(clients=CLIENTS, train=300, rounds=ROUNDS)
    index = partition.assign(plain.split.clients, CLIENTS, generator=numpy_generator(0, "partition"))
    setup = make_setup(clients=CLIENTS, train=300, rounds=ROUNDS, index=index, partition=partition)
    attack = MaskedRobustness(fraction=0.2, first_round=1)
    for rule in (MultiKrum(fraction=0.2), FoolsGold()):
        watch = train(setup, (rule,), attack).watch
        acting = watch["acting"] == 1
        assert acting.sum() == 4
        assert watch["excluded"][acting].all()
    # without a rule it arrives, and accuracy does not tell
    last = MaskedRobustness(fraction=0.2, first_round=ROUNDS - 1)
    honest, attacked = train(setup, ()), train(setup, (), last)
    assert attacked.released.norm() > 5 * honest.released.norm()
    assert attacked.accuracy[-1] > honest.accuracy[-1] - 0.1
