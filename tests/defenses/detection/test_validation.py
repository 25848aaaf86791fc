"""Impact of an update on clean examples: exact on a quadratic, and what the detector rejects and cannot see."""

import dataclasses
import functools

import pytest
import torch
from digit_federation import area, digits, rates, setting, trained

from fedsec.attacks.poisoning.label_flip import LabelFlip
from fedsec.attacks.poisoning.model import ALittleIsEnough, SignFlip
from fedsec.data.examples import Examples
from fedsec.defenses.detection import impacts
from fedsec.defenses.detection.impact import WORST
from fedsec.defenses.detection.validation import Validation
from fedsec.federation.rounds import Federation
from fedsec.models.flat import Layout, Slot
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, RoundContext
from fedsec.randomness import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed, "validation"), dtype=torch.float64)


def bowl(models):
    return models.double().square().sum(dim=1)


@pytest.mark.parametrize("size", [1, 7])
def test_the_impact_of_leaving_one_out_is_that_of_a_loop(size, monkeypatch):
    monkeypatch.setattr("fedsec.defenses.detection.impact.BLOCK_BYTES", 8 * 5 * size)
    U, weights, model = normal(7, 5), torch.arange(1.0, 8.0), normal(5, seed=1)
    found = impacts(U, weights, model=model, performance=bowl)
    whole = bowl((model + (weights.double() @ U) / weights.sum()).unsqueeze(0))
    for row in range(7):
        rest = [i for i in range(7) if i != row]
        mean = (weights.double()[rest] @ U[rest]) / weights[rest].sum()
        assert float(found[row]) == pytest.approx(float(whole - bowl((model + mean).unsqueeze(0))))


def test_the_impact_alone_is_that_of_the_update_on_the_model():
    U, model = normal(4, 5), normal(5, seed=1)
    found = impacts(U, torch.ones(4), model=model, performance=bowl, compare="nothing")
    torch.testing.assert_close(found, bowl(model + U) - bowl(model.unsqueeze(0)))


def test_leaving_out_whoever_carries_all_the_weight_leaves_the_model():
    U, model = normal(3, 5), normal(5, seed=1)
    found = impacts(U, torch.tensor([0.0, 2.0, 0.0]), model=model, performance=bowl)
    assert float(found[1]) == pytest.approx(float(bowl((model + U[1]).unsqueeze(0)) - bowl(model.unsqueeze(0))))
    assert found[[0, 2]].tolist() == pytest.approx([0.0, 0.0])


def test_one_that_breaks_the_model_is_the_worst_and_two_hide_each_other_from_the_rest():
    def fragile(models):
        return torch.where(models.abs().max(dim=1).values > 100.0, torch.nan, bowl(models))

    U = torch.cat([torch.full((1, 5), 1e6, dtype=torch.float64), normal(5, 5)])
    one = impacts(U, torch.ones(6), model=torch.zeros(5).double(), performance=fragile)
    assert one[0] > WORST / 2
    assert one[1:].tolist() == [0.0] * 5
    two = torch.cat([U[:1], U])
    assert not impacts(two, torch.ones(7), model=torch.zeros(5).double(), performance=fragile).any()
    alone = impacts(two, torch.ones(7), model=torch.zeros(5).double(), performance=fragile, compare="nothing")
    assert (alone > WORST / 2).tolist() == [True, True] + [False] * 5


@dataclasses.dataclass
class Toy:
    """A server whose models are points, and whose examples are the points that they should be."""

    asked: list = dataclasses.field(default_factory=list)

    def root(self, count):
        self.asked.append(count)
        return Examples(torch.zeros(count, 5), torch.zeros(count, dtype=torch.int64))

    def losses(self, models, examples):
        return bowl(models).unsqueeze(1).expand(-1, len(examples))

    def right(self, models, examples):
        # worse the farther away, in steps of one example
        share = (bowl(models) / 20.0).clamp(0.0, 1.0)
        return torch.arange(len(examples)).unsqueeze(0) >= (share * len(examples)).unsqueeze(1)


def run(defense, U, *, weights=None):
    layout = Layout((Slot("w", (5,), 0, 5, True),))
    server = Toy()
    context = RoundContext(
        round=0, rounds=5, clients=(), layout=layout, population=20, cohort=20.0, sampling="all", seed=1,
        model=torch.zeros(5), server=server,
    )  # fmt: skip
    payload = Plain(U, torch.ones(len(U)) if weights is None else weights)
    kept = defense.preaggregate(Cohort([(tuple(range(10, 10 + len(U))), payload)]), context)
    return kept.matrix()[0], context.report, server


@pytest.mark.parametrize("measure", ["loss", "error", "union"])
@pytest.mark.parametrize("compare", ["rest", "nothing"])
def test_rejects_the_worst(measure, compare):
    U = 0.1 * normal(10, 5).float()
    U[4] = 3.0
    kept, report, server = run(Validation(measure=measure, compare=compare, f=1, examples=40), U)
    assert 14 not in kept
    assert report["score:14"] == max(value for key, value in report.items() if key.startswith("score:"))
    assert server.asked == [40]
    assert len(kept) == 9


def test_a_threshold_spares_rounds_without_harm():
    U = 0.1 * normal(10, 5).float()
    assert len(run(Validation(f=3), U)[0]) == 7
    assert len(run(Validation(f=3, threshold=1.0), U)[0]) == 10
    U[[2, 5]] = 3.0
    kept, _, _ = run(Validation(f=3, threshold=1.0, compare="nothing"), U)
    assert kept == (10, 11, 13, 14, 16, 17, 18, 19)


def test_one_update_is_left_alone_and_refusals_say_what_to_do():
    assert len(run(Validation(f=5), normal(1, 5).float())[0]) == 1
    ((found, hint),) = Validation(examples=300).problems(setting())
    assert "300" in found
    assert "auxiliary: 300" in hint
    assert Validation(f=20).problems(setting())
    assert "measure: loss" in Validation(measure="error").problems(setting(task="regression"))[0][1]
    assert not Validation().problems(setting(task="regression"))
    with pytest.raises(ValueError, match="at the server"):
        Validation().preaggregate(
            Cohort([((0, 1), Plain(normal(2, 5), torch.ones(2)))]),
            RoundContext(
                round=0, rounds=1, clients=(), layout=setting().layout, population=2, cohort=2.0, sampling="all", seed=0
            ),
        )


@pytest.mark.parametrize("adversary", [LabelFlip(fraction=0.2), SignFlip(fraction=0.2)], ids=lambda a: a.name)
def test_catches_what_lowers_accuracy_in_a_federation(adversary):
    result = trained((Validation(fraction=0.2),), adversary)
    caught, harmed = rates(result)
    assert caught > 0.9
    assert harmed < 0.05
    assert area(result) > 0.95


def test_with_an_f_too_small_it_rejects_some_and_still_ranks_all():
    result = trained((Validation(fraction=0.2),), LabelFlip(fraction=0.4))
    assert rates(result)[0] == pytest.approx(0.5, abs=0.02)
    assert area(result) > 0.95


def test_alie_passes_and_honest_clients_pay_for_the_quota():
    caught, harmed = rates(trained((Validation(fraction=0.2),), ALittleIsEnough(fraction=0.4)))
    assert caught < 0.15
    assert harmed > 0.2


@functools.cache
def misled():
    """The same federation whose server holds wrong labels: those that the attackers train on."""
    from fedsec.audit.challenge import public_facts

    setup, stack, adversary = digits(), (Validation(fraction=0.2),), LabelFlip(fraction=0.2)
    public = setup.split.auxiliary
    wrong = Examples(public.x, (public.y + 1) % 10, public.attributes)
    setup = dataclasses.replace(setup, split=dataclasses.replace(setup.split, auxiliary=wrong))
    return Federation(setup, stack, adversary=adversary, facts=public_facts(setup, stack, adversary)).run()


def test_wrong_labels_at_the_server_protect_the_attackers():
    caught, harmed = rates(misled())
    assert caught == 0.0
    assert harmed > 0.2
    assert area(misled()) < 0.05
