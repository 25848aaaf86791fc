"""How backdoors are trained and sent: against the formulas, on small models whose gradients autograd gives."""

import dataclasses

import backdoored as toy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.attacks.backdoor import anomaly, quiet_coordinates, replacement_factor, within
from fedsec.attacks.backdoor.constrain import ConstrainAndScale, constrained
from fedsec.attacks.backdoor.data import BadNets, DistributedBackdoor
from fedsec.attacks.backdoor.model import ModelReplacement
from fedsec.attacks.backdoor.neurotoxin import Neurotoxin, masked
from fedsec.attacks.backdoor.projected import PGDBackdoor
from fedsec.attacks.backdoor.schedule import Scheduled
from fedsec.data.examples import DatasetInfo, Examples
from fedsec.federation.cohort import CohortTrainer, Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import gradient_step
from fedsec.models.single import SingleLane
from fedsec.models.stacked import stacked_lanes
from fedsec.protocol.drill import Drill
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import CoalitionView
from fedsec.randomness import generator

MODEL_SIDE = (ModelReplacement, ConstrainAndScale, PGDBackdoor, Neurotoxin)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "model backdoors"))


def architecture(conv=False):
    layers = [torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(48, 4)]
    dense = [torch.nn.Flatten(), torch.nn.Linear(36, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)]
    return FlatModel.of(torch.nn.Sequential(*(layers if conv else dense)), task="classification", name="toy")


def facts(model, rate=1.0):
    info = DatasetInfo(
        name="toy", summary="", task="classification", input_shape=(1, 6, 6), classes=tuple("abcd"),
        bounds=(0.0, 1.0), modality="image",
    )  # fmt: skip
    return PublicFacts(
        info=info, model=model, initial=model.vector(), stack=(), population=20, cohort=10, rounds=5, rule="mean",
        knowledge=frozenset(), server_rate=rate,
    )  # fmt: skip


def drill(model, *, k=2, previous=None, local=None):
    start, local = normal(model.layout.size, seed=1) * 0.3, local or LocalTraining(batch_size=4, learning_rate=0.5)
    shards = [Examples(normal(8, 1, 6, 6, seed=10 + i).abs(), torch.arange(8) % 4) for i in range(k)]
    clean = tuple(Examples(s.x, (s.y + 1) % 4) for s in shards)

    def train(begin, given, own, wrap, attempt):
        hooks = () if wrap is None else (type("Hook", (), {"local": staticmethod(wrap)})(),)
        starts = begin if begin.dim() == 2 else begin.expand(k, -1)
        trainer = CohortTrainer(model, own or local, hooks=hooks)
        rows = zip(starts, given or shards, range(k), strict=True)
        return torch.cat([trainer.train(row, [Shard.of(s)], [100 * attempt + i]) for row, s, i in rows])

    return Drill(
        round=3, clients=tuple(range(k)), places=tuple(range(k)), model=start, previous=previous,
        shards=tuple(shards), local=local, cohort=10, layout=model.layout, state={}, _train=train, _clean=lambda: clean,
    )  # fmt: skip


def coalition(own, *, n=10, weights=None):
    k = len(own)
    return CoalitionView(
        round=0, clients=tuple(range(k)), own=own, weights=torch.ones(k) if weights is None else weights,
        model=torch.zeros(own.shape[1]), honest=None, expected_cohort=n, state={},
        is_sybil=torch.zeros(k, dtype=torch.bool),
    )  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(
    weights=st.lists(st.integers(1, 50), min_size=2, max_size=8),
    k=st.integers(1, 2),
    rate=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_replacement_by_known_weights_replaces_the_model(weights, k, rate):
    """``G + rate sum m_i u_i / sum m_i`` is the attackers' mean model when the others do not move."""
    m = torch.tensor(weights, dtype=torch.float64)
    model, own = normal(6, seed=2).double(), normal(k, 6, seed=3).double()
    factor = replacement_factor(m[:k], cohort=len(m), rate=rate, total=float(m.sum()))
    updates = torch.cat([factor * own, torch.zeros(len(m) - k, 6, dtype=torch.float64)])
    after = model + rate * (m @ updates) / m.sum()
    torch.testing.assert_close(after, model + (m[:k] @ own) / m[:k].sum())


def test_replacement_of_equal_weights_is_n_over_eta():
    assert replacement_factor(torch.ones(1), cohort=10) == 10
    assert replacement_factor(torch.ones(1), cohort=10, rate=0.1) == pytest.approx(100)
    assert replacement_factor(torch.tensor([7.0, 9.0]), cohort=10, rate=0.5) == pytest.approx(10)
    assert replacement_factor(torch.ones(3), cohort=2) == 1
    with pytest.raises(ValueError, match="positive server rate"):
        replacement_factor(torch.zeros(2), cohort=2)


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_one_attacker_under_the_mean_becomes_the_global_model(rate):
    model = architecture()
    own, start = normal(1, 40, seed=5), normal(40, seed=6)
    sent = ModelReplacement().craft(coalition(own), facts(model, rate), generator=generator(0))
    others = torch.zeros(9, 40)
    after = start + rate * torch.cat([sent, others]).mean(0)
    torch.testing.assert_close(after, start + own[0])


@pytest.mark.parametrize("kind", MODEL_SIDE)
def test_what_is_sent_is_scaled_and_no_longer_than_the_bound(kind):
    own = normal(2, 30)
    before = own.clone()
    sent = kind(boost=4.0).craft(coalition(own), facts(architecture()), generator=generator(0))
    torch.testing.assert_close(sent, 4 * own)
    bounded = kind(boost=4.0, bound=float(own[0].norm()) * 2).craft(
        coalition(own), facts(architecture()), generator=generator(0)
    )
    torch.testing.assert_close(bounded[0], 2 * own[0])
    assert float(bounded[1].norm()) <= float(own[0].norm()) * 2 * (1 + 1e-6)
    assert torch.equal(own, before)


def test_within_is_the_nearest_row_of_a_ball():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(within(rows, torch.tensor(1.0)), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    torch.testing.assert_close(within(rows, torch.tensor([10.0, 0.25, 1.0]))[1], torch.tensor([0.15, 0.2]))
    assert torch.equal(within(rows, torch.tensor(float("inf"))), rows)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("conv", [False, True])
def test_the_constrained_gradient_is_that_of_the_written_loss(distance, conv):
    model = architecture(conv)
    start, reference = normal(model.layout.size, seed=1), normal(model.layout.size, seed=2)
    x, y = normal(5, 1, 6, 6, seed=3), torch.tensor([0, 1, 2, 3, 0])
    lane = SingleLane(model, device="cpu", dtype=torch.float32)
    lane.load(start)
    step = constrained(reference, model.layout, alpha=0.3, distance=distance)(gradient_step)
    found = torch.cat([g.flatten() for g in step(lane, x[None], y[None])])

    leaf = start.clone().requires_grad_()
    tensors = model.layout.split(leaf)
    loss = torch.nn.functional.cross_entropy(torch.func.functional_call(model.module, tensors, (x,)), y)
    if distance == "l2":
        away = (leaf - reference).square().sum().sqrt()
    else:
        away = 1 - leaf @ reference / (leaf.norm() * reference.norm())
    (expected,) = torch.autograd.grad(0.3 * loss + 0.7 * away, leaf)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_constraint_of_every_lane_is_its_own():
    model = architecture()
    states, reference = normal(3, model.layout.size, seed=1), normal(model.layout.size, seed=2)
    x, y = normal(3, 5, 1, 6, 6, seed=3), torch.arange(15).view(3, 5) % 4
    step = constrained(reference, model.layout, alpha=0.3, distance="l2")(gradient_step)
    together = step(stacked_lanes(model, states.clone()), x, y)
    for row in range(3):
        alone = step(stacked_lanes(model, states[row : row + 1].clone()), x[row : row + 1], y[row : row + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[row], b[0])


def test_the_anomaly_has_a_gradient_at_the_reference():
    reference = normal(7)
    leaf = reference.repeat(2, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(anomaly(leaf, reference, "l2").sum(), leaf)
    assert torch.equal(gradient, torch.zeros(2, 7))


def test_a_stronger_constraint_keeps_the_model_closer():
    model = architecture()
    local = LocalTraining(batch_size=4, learning_rate=0.05, epochs=10)
    sizes = [
        float(
            ConstrainAndScale(alpha=alpha).train(drill(model, local=local), facts(model), generator=generator(0)).norm()
        )
        for alpha in (1.0, 0.5, 0.1)
    ]
    assert sizes == sorted(sizes, reverse=True)
    torch.testing.assert_close(
        ConstrainAndScale(alpha=1.0).train(drill(model), facts(model), generator=generator(0)),
        ModelReplacement().train(drill(model), facts(model), generator=generator(0)),
    )


def test_pgd_stays_in_the_ball_and_is_plain_training_inside():
    model = architecture()
    local = LocalTraining(batch_size=4, learning_rate=0.5, epochs=4)
    rows = PGDBackdoor(radius=0.2).train(drill(model, local=local), facts(model), generator=generator(0))
    torch.testing.assert_close(rows.norm(dim=1), torch.full((2,), 0.2))
    one = LocalTraining(batch_size=4, learning_rate=0.5)
    free = PGDBackdoor(radius=1e6).train(drill(model, local=one), facts(model), generator=generator(0))
    torch.testing.assert_close(free, drill(model, local=one).train())


def test_pgd_without_a_radius_is_as_long_as_its_own_honest_update():
    model = architecture()
    held = drill(model, local=LocalTraining(batch_size=4, learning_rate=0.5, epochs=2))
    rows = PGDBackdoor(epochs=20).train(held, facts(model), generator=generator(0))
    honest = held.train(shards=held.clean)
    assert bool((rows.norm(dim=1) <= honest.norm(dim=1) * (1 + 1e-5)).all())
    assert not torch.allclose(rows, honest)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0, 0.99))
def test_quiet_coordinates_are_those_that_moved_least(values, top):
    change = torch.tensor(values, dtype=torch.float64)
    quiet = quiet_coordinates(change, top)
    assert int((~quiet).sum()) == round(top * len(values))
    if bool(quiet.any()) and not bool(quiet.all()):
        assert float(change[quiet].abs().max()) <= float(change[~quiet].abs().min())


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize(
    "local",
    [
        LocalTraining(batch_size=4, learning_rate=0.5, epochs=3),
        LocalTraining(batch_size=4, optimizer="momentum", weight_decay=0.1, epochs=3),
        LocalTraining(batch_size=4, optimizer="adam", learning_rate=0.01),
    ],
    ids=["sgd", "momentum with decay", "adam"],
)
def test_neurotoxin_never_moves_the_busiest_coordinates(conv, local):
    model = architecture(conv)
    previous = normal(model.layout.size, seed=8)
    held = drill(model, previous=previous, local=local)
    rows = Neurotoxin(top=0.25).train(held, facts(model), generator=generator(0))
    moved = (held.model - previous).abs()
    busiest = moved.topk(round(0.25 * len(moved))).indices
    assert bool((rows[:, busiest] == 0).all())
    others = torch.ones(len(moved), dtype=torch.bool)
    others[busiest] = False
    assert bool((rows[:, others] != 0).any(0).double().mean() > 0.9)


def test_neurotoxin_without_a_mask_or_a_past_is_the_plain_backdoor():
    model = architecture()
    plain = drill(model).train()
    for attack, previous in ((Neurotoxin(top=0.0), normal(model.layout.size)), (Neurotoxin(top=0.3), None)):
        torch.testing.assert_close(
            attack.train(drill(model, previous=previous), facts(model), generator=generator(0)), plain
        )


def test_a_masked_step_masks_each_gradient():
    model = architecture()
    quiet = torch.arange(model.layout.size) % 3 != 0
    lanes = stacked_lanes(model, normal(2, model.layout.size))
    x, y = normal(2, 4, 1, 6, 6, seed=1), torch.zeros(2, 4, dtype=torch.int64)
    plain = torch.cat([g.flatten(1) for g in gradient_step(lanes, x, y)], 1)
    found = torch.cat([g.flatten(1) for g in masked(quiet, model.layout)(gradient_step)(lanes, x, y)], 1)
    torch.testing.assert_close(found, plain * quiet)


def test_hyper_parameters_of_its_own():
    model = architecture()
    own = ModelReplacement(epochs=3, learning_rate=0.01).training(LocalTraining(epochs=1, learning_rate=0.5))
    assert (own.epochs, own.learning_rate) == (3, 0.01)
    assert ModelReplacement().training(drill(model).local) == drill(model).local


@pytest.mark.parametrize("kind", MODEL_SIDE)
def test_it_plants_what_it_is_given(kind):
    planted = DistributedBackdoor(target=3, ratio=0.5, length=2, gap=1)
    attack = kind(plants=planted)
    held, known = Examples(torch.zeros(8, 1, 6, 6), torch.arange(8) % 4), facts(architecture())
    for place in range(3):
        a = attack.poison_at(place, held, known, generator=generator(0))
        b = planted.poison_at(place, held, known, generator=generator(0))
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    assert torch.equal(attack.probe(held, known.info).x, planted.probe(held, known.info).x)
    assert attack.goal() == {"target": 3}
    assert not attack.honest_stages


@pytest.mark.parametrize(
    "stated", [{"fraction": 0.3}, {"first_round": 2}, {"last_round": 2}, {"shot_every": 1}, {"sure": 1}]
)
def test_a_schedule_of_the_planted_backdoor_is_refused_instead_of_forgotten(stated):
    with pytest.raises(ValueError, match="would not be kept"):
        ModelReplacement(plants=BadNets(**stated))
    with pytest.raises(ValueError, match="honest_clients"):
        ModelReplacement(plants=BadNets(honest_clients=True))


def acting(attack, rounds=20, places=4):
    return {(r, p) for r in range(rounds) for p in range(places) if attack.acts(r, p)}


def test_schedules():
    assert acting(BadNets()) == {(r, p) for r in range(20) for p in range(4)}
    assert acting(BadNets(first_round=5, last_round=6)) == {(r, p) for r in (5, 6) for p in range(4)}
    shots = DistributedBackdoor(first_round=12, shot_every=2, sure=1)
    assert acting(shots) == {(12, 0), (14, 1), (16, 2), (18, 3)}
    assert [r for r in range(20) if shots.attends(r)] == [12, 14, 16, 18]
    assert [shots.attends(r) for r in (12, 13, 18)] == [(0,), (), (3,)]
    assert BadNets().attends(3) == ()
    assert BadNets(sure=2, first_round=4).attends(3) == ()
    assert BadNets(sure=2, first_round=4).attends(4) == (0, 1)
    assert acting(DistributedBackdoor(first_round=12, shot_every=2, last_round=14)) == {(12, 0), (14, 1)}
    assert all(issubclass(kind, Scheduled) for kind in MODEL_SIDE)


def test_a_single_shot_replaces_a_converged_model():
    """The others hardly move: right after the shot the model is the attacker's, and the backdoor is there."""
    attack = ModelReplacement(
        plants=BadNets(target=0, ratio=0.3), fraction=0.05, first_round=1, shot_every=1, sure=1, epochs=10
    )
    where = toy.resumed(rounds=3, rate=0.5)
    before = toy.floor(where, attack, toy.clean().released)
    result = toy.attacked(where, attack)
    assert before < 0.1
    assert result.probes[0] < 0.1
    assert result.probes[1] > 0.8
    assert result.accuracy[1] > toy.clean().accuracy[-1] - 0.1
    acted = result.watch["acting"].bool()
    assert result.watch["round"][acted].tolist() == [1]


def test_without_the_boost_a_single_shot_is_averaged_away():
    attack = ModelReplacement(
        plants=BadNets(target=0, ratio=0.3), fraction=0.05, first_round=1, shot_every=1, sure=1, epochs=10, boost=1.0
    )
    assert max(toy.attacked(toy.resumed(rounds=3), attack).probes) < 0.3


@pytest.mark.parametrize("kind", [ConstrainAndScale, PGDBackdoor, Neurotoxin])
def test_persistent_attacks_plant_their_backdoor(kind):
    planted = BadNets(target=0, ratio=0.3, shape="patch")
    attack = kind(plants=planted, fraction=0.34, epochs=5, boost=4.0)
    where = toy.resumed(rounds=8)
    result = toy.attacked(where, attack)
    assert toy.floor(where, attack, toy.clean().released) < 0.1
    assert max(result.probes[-3:]) > 0.5
    assert result.accuracy[-1] > toy.clean().accuracy[-1] - 0.05


def test_specs_rebuild():
    attack = Neurotoxin(plants=DistributedBackdoor(gap=1), top=0.1)
    assert attack.spec()["plants"]["gap"] == 1
    assert dataclasses.replace(attack, fraction=0.3).fraction == 0.3
