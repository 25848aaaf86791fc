"""Authentication in a federation: it stops identities that nobody enrolled, and nobody else."""

import math

import pytest
import torch
from digit_federation import area, digits, rates, trained

from fedsec.attacks.poisoning.label_flip import LabelFlip
from fedsec.attacks.sybil.identities import Sybil
from fedsec.defenses.admission.authentication import Authentication
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.stage import RoundContext


def context(number, *, population=4, vault=None):
    return RoundContext(
        round=number, rounds=9, clients=(), layout=Layout((Slot("w", (1,), 0, 1, True),)), population=population,
        cohort=4.0, sampling="all", seed=0, vault={} if vault is None else vault,
    )  # fmt: skip


def test_admits_enrolled_identities_alone_and_says_whom_it_refused():
    told = context(0)
    assert Authentication().admit((0, 2, 3, 4, 7), told) == (0, 2, 3)
    assert told.report["refused"] == 2.0
    assert [told.report[f"score:{i}"] for i in (0, 2, 3, 4, 7)] == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert not any(key.startswith("excluded:") for key in told.report)  # the harness counts whom it did not admit


def test_keys_last_as_long_as_the_vault():
    vault = {}
    for number in range(3):
        assert Authentication().admit((0, 1, 4), context(number, vault=vault)) == (0, 1)
    assert Authentication().admit((0, 1, 4), context(3)) == (0, 1)  # lost keys are made anew


def test_an_answer_may_be_good_for_several_rounds(monkeypatch):
    from fedsec.defenses.admission.certificates import Gate

    asked = []
    real = Gate.accepts
    monkeypatch.setattr(Gate, "accepts", lambda self, who, answer: (asked.append(who), real(self, who, answer))[1])
    vault = {}
    for number in range(6):
        identities = (0, 1, 4) if number else (0, 4)
        admitted = Authentication(good_for=3).admit(identities, context(number, vault=vault))
        assert admitted == identities[:-1]
    assert asked.count(0) == 2  # rounds 0 and 3
    assert asked.count(1) == 2  # rounds 1 and 4
    assert asked.count(4) == 6  # who was refused is asked again


def test_large_populations_report_scores_of_the_refused_alone(monkeypatch):
    monkeypatch.setattr("fedsec.defenses.admission.refusals.SCORED", 3)
    told = context(0)
    Authentication().admit((0, 1, 2, 4), told)
    assert {key for key in told.report if key.startswith("score:")} == {"score:4"}


FLOOD = Sybil(carries=LabelFlip(), identities=100, fraction=0.0)


def test_stops_an_unlimited_flood_at_the_door():
    honest, flooded = trained(()), trained((), FLOOD)
    assert flooded.accuracy[-1] < honest.accuracy[-1] - 0.5
    guarded = trained((Authentication(),), FLOOD)
    assert torch.equal(guarded.released, honest.released)  # the attack might as well not be there
    assert rates(guarded) == (1.0, 0.0)
    assert area(guarded) == 1.0
    assert guarded.diagnostics["authentication.refused"] == 100.0


@pytest.mark.parametrize(
    "adversary", [LabelFlip(fraction=0.4), Sybil(carries=LabelFlip(), identities=50, fraction=0.4)]
)
def test_does_nothing_against_bribed_clients(adversary):
    bribed = trained((), LabelFlip(fraction=0.4))
    guarded = trained((Authentication(),), adversary)
    real = guarded.watch["client"] < len(digits().index)
    assert not bool(guarded.watch["excluded"][real].any())
    assert guarded.accuracy[-1] < trained(()).accuracy[-1] - 0.15
    if adversary.identities == 0:
        assert torch.equal(guarded.released, bribed.released)
        assert math.isclose(area(guarded), 0.5)
