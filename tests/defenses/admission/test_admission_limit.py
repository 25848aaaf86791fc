"""The queue at the door: it slows a flood down, and everybody pays."""

import torch
from digit_federation import rates, setting, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.poisoning.label_flip import LabelFlip
from fedsec.attacks.sybil.identities import Sybil
from fedsec.defenses.admission.admission_limit import AdmissionLimit
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.stage import RoundContext


class Door:
    def __init__(self, defense, *, seed=0):
        self.defense, self.state, self.number, self.seed = defense, {}, 0, seed

    def ask(self, *identities):
        context = RoundContext(
            round=self.number, rounds=99, clients=(), layout=Layout((Slot("w", (1,), 0, 1, True),)), population=4,
            cohort=4.0, sampling="all", seed=self.seed, state=self.state,
        )  # fmt: skip
        self.number += 1
        self.report = context.report
        return self.defense.admit(tuple(identities), context)


def test_lets_so_many_in_per_round_and_keeps_them():
    door = Door(AdmissionLimit(new_per_round=2))
    first = door.ask(*range(5))
    assert len(first) == 2
    assert door.report["refused"] == 3.0
    second = door.ask(*range(5))
    assert len(second) == 4
    assert set(first) < set(second)
    assert door.ask(*range(5)) == tuple(range(5))
    assert door.report["refused"] == 0.0


def test_the_order_is_that_of_arrival_and_within_a_round_a_lot():
    door = Door(AdmissionLimit(new_per_round=3))
    early = set(range(6))
    assert set(door.ask(*early)) < early
    assert set(door.ask(*range(20))) == early  # the flood arrived later
    lots = {Door(AdmissionLimit(new_per_round=3), seed=seed).ask(*range(6)) for seed in range(12)}
    assert len(lots) > 3


def test_who_is_away_keeps_the_place_and_holds_nobody_up():
    door = Door(AdmissionLimit(new_per_round=1))
    (first,) = door.ask(7, 8)
    late = 15 - first
    assert door.ask(first, 9) == (first, 9)  # the other one is away, 9 moves up
    assert set(door.ask(first, 9, 10, late)) == {first, 9, late}


def test_a_total_closes_the_door():
    door = Door(AdmissionLimit(new_per_round=2, total=3))
    for _ in range(4):
        admitted = door.ask(*range(9))
    assert len(admitted) == 3
    assert AdmissionLimit(total=3).problems(setting(cohort=5.0))[0][1] == "set total to 5 or more"
    assert not AdmissionLimit(total=5).problems(setting(cohort=5.0))
    assert not AdmissionLimit().problems(setting())


@given(
    crowds=st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=8),
    limit=st.integers(1, 5),
    total=st.none() | st.integers(1, 12),
)
@settings(deadline=None, max_examples=40)
def test_the_limits_hold_whoever_asks(crowds, limit, total):
    door, inside = Door(AdmissionLimit(new_per_round=limit, total=total)), set()
    for crowd in crowds:
        admitted = door.ask(*sorted(crowd))
        assert list(admitted) == sorted(admitted)
        assert set(admitted) <= crowd
        assert crowd & inside <= set(admitted)
        assert len(set(admitted) - inside) <= limit
        inside |= set(admitted)
        assert total is None or len(inside) <= total


def test_slows_a_flood_that_comes_later_and_delays_honest_newcomers():
    flood = Sybil(carries=LabelFlip(), identities=100, fraction=0.0, joins=4)
    open_door, queue = trained((), flood, rounds=8), trained((AdmissionLimit(new_per_round=5),), flood, rounds=8)
    late = open_door.watch["round"] >= 4

    def sybils(result):
        return int(((result.watch["controlled"] == 1) & (result.watch["excluded"] == 0)).sum())

    assert sybils(open_door) == 4 * 100
    assert sybils(queue) == 5 + 10 + 15 + 20
    assert int(late.sum()) == 4 * 120
    assert queue.accuracy[-1] > open_door.accuracy[-1] + 0.1
    # the price: in the first rounds 15, 10 and 5 of the 20 honest clients wait
    honest = queue.watch["controlled"] == 0
    waiting = [int(queue.watch["excluded"][honest & (queue.watch["round"] == r)].sum()) for r in range(8)]
    assert waiting == [15, 10, 5, 0, 0, 0, 0, 0]


def test_a_flood_that_is_there_from_the_start_keeps_honest_clients_out():
    flood = Sybil(carries=LabelFlip(), identities=100, fraction=0.0)
    caught, harmed = rates(trained((AdmissionLimit(new_per_round=5),), flood, rounds=8))
    assert abs(caught - harmed) < 0.1  # the door cannot tell them apart
    assert harmed > 0.7
    assert torch.isfinite(trained((AdmissionLimit(new_per_round=5),), flood, rounds=8).released).all()
