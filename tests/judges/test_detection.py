"""Detection rates, delays and fairness on watches whose figures are known, and against slow sums over rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.federation.watch import Watch
from fedsec.judges.base import Outcome
from fedsec.judges.detection import detection, exhibits, thirds
from fedsec.judges.integrity import AvailabilityJudge
from fedsec.randomness import numpy_generator
from fedsec.statistics.intervals import auc
from fedsec.statistics.pooling import pool

from .test_integrity import HONEST, TEST, info

HOLDINGS = {0: (10, 0), 1: (20, 0), 2: (30, 1), 3: (40, 1), 8: (25, 0), 9: (25, 1)}


def outcome(rows, excluded=(), scores=None, holdings=HOLDINGS):
    """Rows are ``(round, client, controlled, acting)``."""
    watch = Watch(list(rows)).tensors(list(excluded), scores or {}, holdings)
    return Outcome(predictions=HONEST.predictions, accuracy=(0.5,), rounds=(2,), watch=watch)


def everybody(rounds, asleep=()):
    """Four honest clients and the attackers 8 and 9 in every round."""
    rows = []
    for number in rounds:
        rows += [(number, client, False, False) for client in range(4)]
        rows += [(number, client, True, (number, client) not in asleep) for client in (8, 9)]
    return rows


def named(outcome, honest=None):
    return {measurement.name: measurement for measurement in detection(outcome, honest)}


def test_rates_are_over_identities_and_rounds_and_sleepers_are_on_neither_side():
    excluded = [(0, 8), (1, 8), (1, 9), (2, 3), (0, 9)]
    found = named(outcome(everybody(range(3), asleep={(0, 9)}), excluded))
    tpr, fpr = found["detection_tpr"], found["detection_fpr"]
    assert tpr.units.sum() == 3
    assert len(tpr.units) == 5
    assert sorted(set(tpr.clusters.tolist())) == [8, 9]
    assert fpr.units.sum() == 1
    assert len(fpr.units) == 12
    assert fpr.floor == 0.0


def test_the_floor_of_the_false_positives_is_what_the_stack_drops_without_an_attack():
    honest = outcome([(0, client, False, False) for client in range(4)], [(0, 0)])
    found = named(outcome(everybody(range(2))), honest)["detection_fpr"]
    assert found.floor_units.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert pool([found], generator=numpy_generator("t")).floor == 0.25


def test_delays_count_rounds_of_attack():
    rows = everybody(range(2, 7), asleep={(2, 9), (4, 9)})
    found = named(outcome(rows, [(3, 8), (5, 9), (6, 8)]))
    assert found["detection_delay"].units.tolist() == [1.0, 1.0]  # 9 attacked in round 3 only, before 5
    assert found["detection_first"].units.tolist() == [1.0]
    assert found["detection_half"].units.tolist() == [1.0]
    never = named(outcome(rows))
    assert never["detection_delay"].units.tolist() == [5.0, 3.0]
    assert never["detection_first"].units.tolist() == [5.0]
    assert never["detection_half"].units.tolist() == never["detection_half"].units.new_tensor([5.0]).tolist()
    assert never["detection_half"].ceiling == 5.0


def test_the_honest_within_a_share_are_judged_against_those_outside():
    rows = everybody(range(2))
    within = {0: 1, 1: 1, 2: 0, 3: 0, 8: 1, 9: 0}
    watch = Watch(list(rows)).tensors([(0, 0), (1, 0), (1, 1), (0, 3), (0, 8)], {}, HOLDINGS, within)
    found = Outcome(predictions=HONEST.predictions, accuracy=(0.5,), rounds=(2,), watch=watch)
    share = named(found)["honest_excluded_within_share"]
    assert (share.units.mean(), share.floor_units.mean()) == (0.75, 0.25)
    assert share.clusters.tolist() == [0, 1, 0, 1]
    assert exhibits(found)["heard/training"].tolist() == [1, 1, 0, 0] * 2
    plain = outcome(rows)
    assert "honest_excluded_within_share" not in named(plain)
    assert set(exhibits(plain)["heard/training"].tolist()) == {-1}


def test_half_of_three_attackers_are_two():
    rows = [(number, client, True, True) for number in range(4) for client in (7, 8, 9)]
    found = named(outcome(rows, [(1, 7), (3, 9)]))
    assert found["detection_first"].units.tolist() == [1.0]
    assert found["detection_half"].units.tolist() == [3.0]
    assert "detection_fpr" not in found


def test_an_identity_dropped_in_most_rounds_is_harmed():
    found = named(outcome(everybody(range(3)), [(0, 0), (1, 0), (2, 1)]))
    assert found["honest_harmed"].units.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_the_worst_class_and_the_worst_third_stand_against_chance():
    excluded = [(number, client) for number in range(4) for client in (2, 3)]
    found = named(outcome(everybody(range(4)), excluded))
    worst = found["honest_excluded_worst_class"]
    assert worst.units.tolist() == [1.0] * 8
    assert sorted(set(worst.clusters.tolist())) == [2, 3]
    # classes are dealt to four clients in six ways: two separate the dropped ones, four split them evenly
    assert worst.floor == pytest.approx((2 * 1.0 + 4 * 0.5) / 6, abs=0.05)
    size = found["honest_excluded_worst_size"]
    assert size.units.mean() == 1.0
    assert 0.5 < size.floor <= 1.0
    unknown = {client: (10, -1) for client in HOLDINGS}
    assert (
        not {"honest_excluded_worst_class", "honest_excluded_worst_size"}
        & named(outcome(everybody(range(4)), excluded, holdings=unknown)).keys()
    )


def test_thirds_hold_a_third_each_and_nobody_where_all_are_alike():
    client = np.repeat(np.arange(9), 2)
    assert np.bincount(thirds(client, np.repeat(np.arange(9) * 5 + 1, 2))).tolist() == [6, 6, 6]
    assert thirds(client, np.full(18, 4)).tolist() == [-1] * 18
    assert thirds(client[:0], client[:0]).tolist() == []


def scored(seed, rounds=3, shrink=1.0):
    random = np.random.default_rng(seed)
    rows = everybody(range(rounds))
    scores = {
        (number, client): float(shrink**number * (random.integers(0, 4) + 2.0 * controlled))
        for number, client, controlled, _ in rows
    }
    return rows, scores


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_area_is_the_chance_of_outscoring_an_honest_identity_of_the_same_round(seed):
    rows, scores = scored(seed)
    found = named(outcome(rows, scores=scores))["detection_auc"]
    pairs = [
        1.0 if scores[n, a] > scores[n, h] else 0.5 if scores[n, a] == scores[n, h] else 0.0
        for n in range(3)
        for a in (8, 9)
        for h in range(4)
    ]
    assert auc(found.units, found.truths) == pytest.approx(np.mean(pairs), abs=0.13)  # places of ties are rounded
    assert found.units[found.truths].mean() == pytest.approx(np.mean(pairs))


def test_scores_that_shrink_over_the_rounds_are_compared_within_a_round_only():
    rows = everybody(range(6))
    scores = {(n, c): 0.1**n * (5.0 if controlled else 1.0 + 0.1 * c) for n, c, controlled, _ in rows}
    found = named(outcome(rows, scores=scores))
    assert auc(found["detection_auc"].units, found["detection_auc"].truths) == 1.0
    fixed = found["detection_auc_one_threshold"]
    assert auc(fixed.units, fixed.truths) < 0.8
    caught = pool([found["detection_tpr@0.05"]], generator=numpy_generator("t"))
    assert caught.value == 1.0
    assert caught.low < 1.0


def test_infinite_scores_count_and_missing_ones_do_not():
    rows = everybody(range(2))
    scores = {(0, c): float(c) for c in (0, 1, 2, 8)} | {(0, 9): math.inf, (1, 0): math.inf}
    found = named(outcome(rows, scores=scores))
    assert found["detection_auc"].units[found["detection_auc"].truths].tolist() == [1.0, 1.0]
    fixed = found["detection_auc_one_threshold"]
    assert len(fixed.units) == 6
    assert torch.isfinite(fixed.units).all()
    assert "detection_auc" not in named(outcome(rows, scores={(0, 8): 1.0, (1, 0): 2.0}))


def test_every_measurement_can_be_pooled_with_its_clusters():
    rows, scores = scored(1)
    found = named(outcome(rows, [(0, 8), (1, 1)], scores), outcome(rows[:4]))
    for name, measurement in found.items():
        pooled = pool([measurement, measurement], generator=numpy_generator(name))
        assert pooled.low <= pooled.value <= pooled.high, name


def test_what_is_drawn():
    rows, scores = scored(1)
    drawn = exhibits(outcome(rows[:-2], [(0, 8), (1, 1)], scores))
    assert drawn["dropped/round"].tolist() == [0, 1, 2]
    assert drawn["dropped/attackers"].tolist()[:2] == [0.5, 0.0]
    assert math.isnan(drawn["dropped/attackers"].tolist()[2])
    assert drawn["dropped/honest"].tolist() == [0.0, 0.25, 0.0]
    assert drawn["heard/client"].tolist() == [0, 1, 2, 3] * 3
    assert drawn["heard/class"].tolist() == [0, 0, 1, 1] * 3
    assert drawn["heard/dropped"].sum() == 1
    assert drawn["acting/span"].tolist() == [0, 1]
    assert drawn["roc/fpr"].tolist()[0] == 0.0
    assert drawn["roc/tpr"].tolist()[-1] == 1.0
    assert exhibits(Outcome(predictions=HONEST.predictions, accuracy=(), rounds=())) == {}


def test_judges_of_integrity_say_it():
    attacked = outcome(everybody(range(3)), [(0, 8)])
    judgement = AvailabilityJudge().compare(HONEST, attacked, TEST, info(), {})
    assert {"detection_tpr", "detection_delay", "honest_harmed"} <= {m.name for m in judgement.measurements}
    assert "dropped/round" in judgement.exhibits
