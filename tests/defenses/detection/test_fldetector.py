"""FLDetector: right predictions where the loss is quadratic, whom it flags, and what it cannot see."""

import numpy as np
import pytest
import torch
from digit_federation import area, rates, setting, trained

from fedsec.attacks.poisoning.crude import GaussianUpdate
from fedsec.attacks.poisoning.model import ALittleIsEnough, SignFlip
from fedsec.attacks.sybil.identities import Sybil
from fedsec.defenses.detection.fldetector import FLDetector
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext
from fedsec.randomness import generator

D = 6


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "fldetector"), dtype=torch.float64)


class Quadratic:
    """Clients with one Hessian and minima of their own; one full-batch step each round."""

    def __init__(self, *, clients=12, rate=0.1, rank=D):
        root = normal(D, rank, seed=1)
        self.hessian = root @ root.t() / rank
        self.minima = normal(clients, D, seed=2)
        self.rate, self.model, self.state, self.number = rate, normal(D, seed=3), {}, 0
        self.reports, self.weights = [], torch.ones(clients, dtype=torch.float64)

    def updates(self):
        return -self.rate * (self.model - self.minima) @ self.hessian

    def round(self, defense, *, change=None, who=None):
        rows = self.updates()
        if change is not None:
            rows = change(rows, self.number)
        who = tuple(range(len(rows))) if who is None else who
        layout = Layout((Slot("w", (D,), 0, D, True),))
        context = RoundContext(
            round=self.number, rounds=50, clients=(), layout=layout, population=20, cohort=12.0, sampling="all",
            seed=1, state=self.state, model=self.model.clone(),
        )  # fmt: skip
        before = self.model.clone()
        cohort = Cohort([(who, Plain(rows[list(who)], self.weights[list(who)]))])
        kept, payload = defense.preaggregate(cohort, context).matrix()
        assert torch.equal(self.model, before)
        self.model = self.model + payload.weights @ payload.values / payload.weights.sum()
        self.number += 1
        self.reports.append(context.report)
        return kept


def errors(world):
    """Prediction errors relative to the update itself, before they are set in relation to each other."""
    from fedsec.defenses.detection.history import History

    history = History(world.state, window=5)
    rows = world.updates()
    found = history._errors(tuple(range(len(rows))), rows, world.model, world.number)
    return found / rows.norm(dim=1)


def errors_of_repeating(world):
    """The same if a client's last update were the prediction."""
    rows = world.updates()
    return (rows - world.state["updates"]).norm(dim=1) / rows.norm(dim=1)


def test_honest_updates_on_a_quadratic_are_predicted_from_the_curvature():
    world, defense = Quadratic(), FLDetector(window=5, start=40)
    for _ in range(8):
        world.round(defense)
    assert (errors(world) < errors_of_repeating(world) / 4).all()


def test_clients_that_sat_out_are_predicted_across_the_gap():
    world, defense = Quadratic(), FLDetector(window=5, start=40)
    everybody, without_two = tuple(range(12)), tuple(range(10))
    world.weights[10:] = 0.0  # so that the mean, which the curvature comes from, is of the same clients all along
    for _ in range(8):
        world.round(defense, who=everybody)
    for _ in range(3):
        world.round(defense, who=without_two)
    assert (errors(world) < errors_of_repeating(world) / 4).all()
    for _ in range(4):
        world.round(defense, who=without_two)
    gone = errors(world)
    assert torch.isnan(gone[10:]).all()  # longer than the window: as if never heard
    assert not torch.isnan(gone[:10]).any()


def jitter(rows, number):
    rows = rows.clone()
    rows[:3] = rows[:3] + 2.0 * rows.norm(dim=1).mean() * normal(3, D, seed=50 + number)
    return rows


def test_flags_inconsistent_clients_once_and_for_good():
    world, defense = Quadratic(), FLDetector(window=5, start=6)
    for number in range(10):
        kept = world.round(defense, change=jitter)
        assert len(kept) == (12 if number < 6 else 9)
    assert kept == tuple(range(3, 12))
    report = world.reports[-1]
    assert report["flagged"] == 3.0
    assert [report[f"excluded:{client}"] for client in range(3)] == [1.0] * 3
    scores = [report[f"score:{client}"] for client in range(12)]
    assert min(scores[:3]) > 2 * max(scores[3:])
    assert np.mean(scores[3:]) < 1.5
    # behaving well from now on does not bring them back
    for _ in range(3):
        assert world.round(defense) == tuple(range(3, 12))


def test_nobody_has_a_score_before_there_is_a_curvature():
    world, defense = Quadratic(), FLDetector(window=5, start=2)
    for number in range(4):
        world.round(defense, change=jitter)
        scored = any(key.startswith("score:") for key in world.reports[-1])
        assert scored == (number >= 2)


def test_newcomers_have_no_score_and_pass():
    world, defense = Quadratic(), FLDetector(window=5, start=6)
    for _ in range(6):
        world.round(defense, who=tuple(range(3, 12)))
    kept = world.round(defense, change=jitter, who=tuple(range(12)))
    assert {0, 1, 2} <= set(kept)
    assert "score:0" not in world.reports[-1]


def test_consistent_poisoning_passes_however_bad_it_is():
    """Clients that train on wrong data follow the gradient of a wrong loss as smoothly as the others."""
    world, defense = Quadratic(), FLDetector(window=5, start=6)
    world.minima[:3] *= -10.0
    for _ in range(12):
        world.round(defense)
        assert world.reports[-1]["flagged"] == 0.0


def test_a_model_that_stands_still_is_no_error():
    world, defense = Quadratic(), FLDetector(window=3, start=2)
    for _ in range(5):
        kept = world.round(defense, change=lambda rows, number: torch.zeros_like(rows))
        assert len(kept) == 12


def test_refusals_say_what_to_do():
    assert "lower `start`" in FLDetector(start=30).problems(setting(rounds=30))[0][1]
    assert FLDetector().problems(setting(cohort=3.0))
    assert not FLDetector().problems(setting(stack=("fldetector", "bucketing")))
    assert "before bucketing" in FLDetector().problems(setting(stack=("bucketing", "fldetector")))[0][1]
    with pytest.raises(ValueError, match="with its model"):
        FLDetector().preaggregate(
            Cohort([((0,), Plain(normal(1, D), torch.ones(1)))]),
            RoundContext(
                round=0, rounds=1, clients=(), layout=setting().layout, population=2, cohort=2.0, sampling="all", seed=0
            ),
        )


@pytest.mark.parametrize("adversary", [GaussianUpdate(fraction=0.2), SignFlip(fraction=0.2)], ids=lambda a: a.name)
def test_removes_crude_attackers_of_a_federation_after_its_start(adversary):
    result = trained((FLDetector(window=6, start=8),), adversary, rounds=16)
    assert rates(result)[0] == pytest.approx(0.5, abs=0.13)  # nobody in the first half, everybody in the second
    assert rates(result, since=10)[0] == 1.0
    assert rates(result)[1] == 0.0
    assert area(result) > 0.95


def test_colluders_that_average_their_updates_look_more_consistent_than_honest_clients():
    for adversary in (ALittleIsEnough(fraction=0.4), Sybil(identities=15, fraction=0.1)):
        result = trained((FLDetector(window=6, start=8),), adversary, rounds=16)
        assert rates(result)[0] == 0.0
        assert area(result) < 0.2
