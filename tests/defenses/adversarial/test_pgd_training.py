import copy
import pickle

import pytest
import torch
from torch import nn

from fedsec.attacks.evasion.gradient_ascent import fgsm, pgd
from fedsec.data.embedded import Digits
from fedsec.data.examples import Examples
from fedsec.defenses.adversarial.pgd_training import PGDTraining
from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.shards import Shard
from fedsec.federation.training import LocalTraining
from fedsec.models.flat import FlatModel
from fedsec.models.lanes import gradient_step
from fedsec.models.stacked import stacked_lanes
from fedsec.protocol.stage import Setting


def flat(*parts, seed=0, task="classification"):
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), *[copy.deepcopy(part) for part in parts])
        for part in module:
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return FlatModel.of(module, task=task, name="net")


def lanes_of(model, count=2, seed=0):
    state = model.vector() + 0.1 * torch.randn(count, model.layout.size, generator=torch.Generator().manual_seed(seed))
    lanes = stacked_lanes(model, state)
    lanes.begin_step(torch.arange(count) + 17)
    return lanes


def batch(lanes=2, size=5, dim=6, classes=2, seed=3):
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(lanes, size, dim, generator=generator)
    return x, torch.randint(classes, (lanes, size), generator=generator)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_on_a_linear_model_is_the_closed_form(norm):
    model = flat(nn.Linear(6, 2))
    lanes, (x, y) = lanes_of(model), batch()
    defense = PGDTraining(eps=0.1, step=1.0, steps=1, norm=norm, random_start=False)
    found = defense.inner(lanes, x, y)
    for lane in range(2):
        weight = lanes.parameters[0][lane].detach()
        toward = torch.where(y[lane] == 0, 1.0, -1.0)[:, None] * (weight[1] - weight[0])
        direction = toward.sign() if norm == "linf" else toward / toward.norm(dim=1, keepdim=True)
        assert torch.allclose(found[lane], x[lane] + 0.1 * direction, atol=1e-6)


def test_every_lane_is_attacked_as_if_it_were_alone():
    model = flat(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    lanes, (x, y) = lanes_of(model, count=3), batch(lanes=3, classes=3)
    found = PGDTraining(eps=0.2, steps=5, random_start=False).inner(lanes, x, y)
    for lane in range(3):
        net = model.instance(lanes.state[lane])
        alone = pgd(net, x[lane], y[lane], eps=0.2, steps=5, drop_fooled=False)
        assert torch.allclose(found[lane], alone, atol=1e-6)


def test_the_start_is_inside_random_and_repeatable():
    model = flat(nn.Linear(6, 2))
    lanes, (x, y) = lanes_of(model), batch()
    for norm in ("linf", "l2"):
        inner = PGDTraining(eps=0.1, step=1e-9, steps=1, norm=norm).inner
        one, two = inner(lanes, x, y), inner(lanes, x, y)
        assert torch.equal(one, two)
        delta = (one - x).flatten(2)
        assert (delta.abs().amax(-1) if norm == "linf" else delta.norm(dim=-1)).max() <= 0.1 + 1e-6
        assert not torch.allclose(delta[0], delta[1])
    lanes.begin_step(torch.arange(2) + 99)
    assert not torch.equal(inner(lanes, x, y), one)


@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_without_size_it_is_plain_training(mix):
    model = flat(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    lanes, (x, y) = lanes_of(model), batch(classes=3)
    wrapped = PGDTraining(eps=0.0, mix=mix).local(gradient_step)
    for a, b in zip(wrapped(lanes, x, y), gradient_step(lanes, x, y), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_a_mixed_loss_is_the_weighted_sum():
    model = flat(nn.Linear(6, 3))
    lanes, (x, y) = lanes_of(model), batch(classes=3)
    pure = PGDTraining(random_start=False).local(gradient_step)(lanes, x, y)
    mixed = PGDTraining(random_start=False, mix=0.25).local(gradient_step)(lanes, x, y)
    for a, b, c in zip(mixed, pure, gradient_step(lanes, x, y), strict=True):
        assert torch.allclose(a, 0.75 * b + 0.25 * c, atol=1e-7)


def test_the_inner_attack_moves_no_statistics_and_no_gradients():
    model = flat(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    lanes, (x, y) = lanes_of(model), batch(classes=3)
    before = {name: tensor.clone() for name, tensor in lanes.statistics.items()}
    PGDTraining(steps=3).inner(lanes, x, y)
    assert all(torch.equal(before[name], tensor) for name, tensor in lanes.statistics.items())
    assert all(parameter.grad is None for parameter in lanes.parameters)


def test_it_travels_to_worker_processes():
    step = PGDTraining(eps=0.2).local(gradient_step)
    assert pickle.loads(pickle.dumps(step)) == step


def setting(bounds):
    return Setting(
        population=2,
        cohort=2,
        rounds=1,
        sampling="all",
        layout=flat(nn.Linear(2, 2)).layout,
        local_steps=1,
        batch_size=None,
        has_batch_norm=False,
        task="classification",
        bounds=bounds,
        stack=("pgd-at",),
    )


def test_tokens_and_other_bounds_are_refused():
    assert PGDTraining().problems(setting((0.0, 1.0))) == ()
    assert "tokens" in PGDTraining().problems(setting(None))[0][0]
    assert "[-1.0, 1.0]" in PGDTraining().problems(setting((-1.0, 1.0)))[0][1]
    assert PGDTraining(bounds=(-1.0, 1.0)).problems(setting((-1.0, 1.0))) == ()


def accuracies(hooks):
    """Of a net trained on digits, on clean and on attacked test inputs: clean, FGSM, PGD-20 at 0.1."""
    data = Digits().load(None)
    test = data.test.take(range(200))
    model = flat(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), seed=1)
    local = LocalTraining(epochs=20, batch_size=32, learning_rate=0.3)
    trainer = CohortTrainer(model, local, hooks=hooks)
    shard = Shard(data.train, torch.arange(len(data.train)))
    net = model.instance(model.vector() + trainer.train(model.vector(), [shard], [5])[0])
    attacked = fgsm(net, test.x, test.y, eps=0.1), pgd(net, test.x, test.y, eps=0.1, steps=20)
    return [(net(x).argmax(-1) == test.y).float().mean().item() for x in (test.x, *attacked)]


def test_it_buys_robustness_for_little_clean_accuracy():
    plain, hardened = accuracies(()), accuracies((PGDTraining(eps=0.1, steps=5),))
    assert hardened[0] > plain[0] - 0.03
    assert hardened[1] > plain[1] + 0.1
    assert hardened[2] > plain[2] + 0.1


def test_it_does_not_hide_the_training_example():
    """The update of one example is its (perturbed) input times the error: dW / db gives it back, within eps."""
    model = flat(nn.Linear(64, 10), seed=2)
    digits = Digits().load(None).train.take([7])
    shard = Examples(digits.x, digits.y)
    trainer = CohortTrainer(model, LocalTraining(batch_size=None, learning_rate=0.1), hooks=(PGDTraining(eps=0.1),))
    update = model.layout.split(trainer.train(model.vector(), [Shard(shard, torch.arange(1))], [3])[0])
    weight, bias = update["1.weight"], update["1.bias"]
    row = bias.abs().argmax()
    recovered = weight[row] / bias[row]
    assert (recovered - digits.x.flatten()).abs().max() <= 0.1 + 1e-4


def test_it_does_not_bind_a_poisoner():
    """Flipped labels are learned just as well: the inner maximum keeps the label it is given."""
    data = Digits().load(None)
    zeros = data.train.take((data.train.y == 0).nonzero().flatten()[:40])
    poisoned = Examples(zeros.x, torch.full_like(zeros.y, 8))
    model = flat(nn.Linear(64, 10), seed=2)
    trainer = CohortTrainer(
        model, LocalTraining(epochs=10, batch_size=None, learning_rate=0.5), hooks=(PGDTraining(eps=0.1, steps=3),)
    )
    vector = model.vector() + trainer.train(model.vector(), [Shard(poisoned, torch.arange(40))], [3])[0]
    assert (model.instance(vector)(zeros.x).argmax(-1) == 8).float().mean() > 0.95
