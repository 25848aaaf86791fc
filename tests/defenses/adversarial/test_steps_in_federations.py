"""What holds for every kind of adversarial training: in every engine, as centrally, refused where it cannot be."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsec.data.examples import Examples
from fedsec.defenses.adversarial.fast_gradient_training import FGMTraining, FGSMTraining
from fedsec.defenses.adversarial.free_training import FreeTraining
from fedsec.defenses.adversarial.input_gradient_penalty import InputGradientPenalty
from fedsec.defenses.adversarial.pgd_training import PGDTraining
from fedsec.defenses.adversarial.propagate_once import YOPO
from fedsec.defenses.adversarial.trades import Trades
from fedsec.federation.shards import Shard, local_order
from fedsec.federation.training import LocalTraining
from fedsec.models.dropout import CounterDropout
from fedsec.models.lanes import gradient_step
from fedsec.protocol.stage import EnforcedBy, Setting

from .small_lanes import batch, close, dense, flat, lanes_of, shards_of, trained

DEFENSES = {
    "fgsm-at": FGSMTraining(eps=0.1, ramp=2),
    "fgsm-at cured": FGSMTraining(eps=0.2, cure="pgd", gap=0.01),
    "fgm-at": FGMTraining(eps=0.5),
    "pgd-at": PGDTraining(eps=0.1, steps=3),
    "pgd-at train mode": PGDTraining(eps=0.5, steps=3, norm="l2", mode="train"),
    "trades": Trades(eps=0.1, steps=3),
    "free-at": FreeTraining(eps=0.1, replays=3),
    "yopo": YOPO(eps=0.1, passes=3),
    "yopo passes": YOPO(eps=0.1, passes=3, closed_form=False),
    "penalty": InputGradientPenalty(beta=0.5),
    "penalty differences": InputGradientPenalty(beta=0.5, method="finite-differences", h=0.1),
}
MODELS = {
    "dense": (nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)),
    "convolutional": (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(108, 3)),
}
SIZES, SEEDS = (12, 3, 8, 11), (3, 1, 4, 15)


def pool_of(sizes):
    x, y = batch(lanes=1, size=sum(sizes), shape=(1, 8, 8), classes=3)
    return Examples(x[0], y[0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", DEFENSES)
def test_engines_agree(name, model):
    pool = pool_of(SIZES)
    local = LocalTraining(epochs=2, batch_size=4, learning_rate=0.05)
    built = flat(*MODELS[model])
    given = (built, local, [DEFENSES[name]], shards_of(pool, SIZES), SEEDS)
    updates, reports = trained(*given, round_index=1)
    start = built.vector().double()
    exact, _ = trained(*given, round_index=1, start=start)
    stacked, also = trained(*given, round_index=1, engine="stacked", start=start)
    torch.testing.assert_close(stacked, exact, atol=1e-5, rtol=1e-5)
    assert all(a.keys() == b.keys() for a, b in zip(reports, also, strict=True))
    assert (updates - trained(built, local, [], shards_of(pool, SIZES), SEEDS)[0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["free-at", "fgsm-at"])
def test_worker_processes_give_the_same_updates_and_reports(name):
    pool = pool_of(SIZES)
    local = LocalTraining(epochs=2, batch_size=4, learning_rate=0.05)
    given = (flat(*MODELS["dense"]), local, [DEFENSES[name]], shards_of(pool, SIZES), SEEDS)
    alone, reports = trained(*given, round_index=1, engine="stacked")
    workers, theirs = trained(*given, round_index=1, engine="workers", workers=2, pool=pool)
    torch.testing.assert_close(workers, alone, atol=1e-5, rtol=1e-5)
    assert [pytest.approx(report) for report in reports] == theirs
    assert bool(reports[0]) == (name == "fgsm-at")


@pytest.mark.parametrize("name", DEFENSES)
def test_it_travels_to_worker_processes(name):
    step = DEFENSES[name].local(gradient_step)
    assert pickle.loads(pickle.dumps(step)) == step


CENTRAL = ("fgsm-at", "pgd-at", "trades", "free-at", "yopo", "penalty")


@pytest.mark.parametrize("name", CENTRAL)
def test_one_clients_federated_training_is_central_training(name):
    """Beside plain torch loops that know nothing of lanes: two rounds of a federation of one, with SGD."""
    defense = {
        "fgsm-at": FGSMTraining(eps=0.1, random_start=False, step=1.0),
        "pgd-at": PGDTraining(eps=0.1, step=0.04, steps=4, random_start=False),
        "trades": Trades(eps=0.1, step=0.04, steps=4, beta=2.0),
        "free-at": FreeTraining(eps=0.1, replays=2),
        "yopo": YOPO(eps=0.1, passes=3, steps=2, sigma=0.03, random_start=False),
        "penalty": InputGradientPenalty(beta=0.3),
    }[name]
    built, pool = flat(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(108, 3)), pool_of((20,))
    local, shard = LocalTraining(epochs=2, batch_size=8, learning_rate=0.1), Shard.of(pool)
    vector = built.vector().double()
    net = built.instance(vector)
    parameters = list(net.parameters())
    for number, seed in enumerate((5, 6)):
        vector = vector + trained(built, local, [defense], [shard], [seed], start=vector, round_index=number)[0][0]
        order = local_order(shard, local, seed=seed)
        bounds = order.bounds[:3] if name == "free-at" else order.bounds
        delta = torch.zeros(8, 1, 8, 8, dtype=torch.float64)
        for index, (first, last) in enumerate(bounds):
            x, y = pool.x[order.rows[first:last]].double(), pool.y[order.rows[first:last]]
            for _ in range(2 if name == "free-at" else 1):
                gradients = central(name, net, x, y, delta, order.keys[index])
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter -= 0.1 * gradient
    found = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    torch.testing.assert_close(vector, found, atol=1e-9, rtol=1e-7)


def central(name, net, x, y, delta, key):
    """One step's gradients as a textbook writes it."""
    parameters, entropy, eps = list(net.parameters()), nn.functional.cross_entropy, 0.1

    def slope(at, objective):
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(objective(leaf), leaf)[0]

    def boxed(at):
        return torch.minimum(torch.maximum(at, x - eps), x + eps).clamp(0, 1)

    if name in {"fgsm-at", "pgd-at"}:
        found = x
        for _ in range(1 if name == "fgsm-at" else 4):
            length = eps if name == "fgsm-at" else 0.04
            found = boxed(found + length * slope(found, lambda at: entropy(net(at), y)).sign())
        return torch.autograd.grad(entropy(net(found), y), parameters)
    if name == "trades":
        # the start is drawn by the lanes; it is taken from them, everything else is written out
        lane = lanes_of(flat(nn.Flatten(), nn.Linear(64, 3)), kind="single")
        lane.begin_step(key.reshape(1))
        unit = lane.uniform(tuple(x.shape), salt=77)[0].clamp(1e-7, 1 - 1e-7).double()
        found, clean = x + 0.001 * torch.special.ndtri(unit), net(x).detach()

        def kl(at, clean):
            return nn.functional.kl_div(net(at).log_softmax(-1), clean.softmax(-1), reduction="batchmean")

        for _ in range(4):
            found = boxed(found + 0.04 * slope(found, lambda at: kl(at, clean)).sign())
        natural = net(x)
        penalty = nn.functional.kl_div(net(found).log_softmax(-1), natural.softmax(-1), reduction="batchmean")
        return torch.autograd.grad(entropy(natural, y) + 2.0 * penalty, parameters)
    if name == "free-at":
        inputs = (x + delta[: len(x)]).clamp(0, 1).requires_grad_()
        *gradients, uphill = torch.autograd.grad(entropy(net(inputs), y), [*parameters, inputs])
        delta[: len(x)] = (delta[: len(x)] + eps * uphill.sign()).clamp(-eps, eps)
        return gradients
    if name == "yopo":
        found, total = x, [torch.zeros_like(parameter) for parameter in parameters]
        for _ in range(3):
            middle = net[0](found).detach().requires_grad_()
            (p,) = torch.autograd.grad(entropy(net[1:](middle), y), middle)
            gradients = torch.autograd.grad(entropy(net(found), y), parameters)
            total = [a + b / 3 for a, b in zip(total, gradients, strict=True)]
            for _ in range(2):
                found = boxed(found + 0.03 * slope(found, lambda at, p=p: (p * net[0](at)).sum()).sign())
        return total
    leaf = x.clone().requires_grad_()
    losses = entropy(net(leaf), y, reduction="none")
    (steep,) = torch.autograd.grad(losses.sum(), leaf, create_graph=True)
    penalty = steep.flatten(1).square().sum(1)
    return torch.autograd.grad((losses + 0.3 * penalty).mean(), parameters)


@pytest.mark.parametrize("kind", ["single", "vmap", "stacked"])
def test_inner_steps_in_train_mode_share_the_dropout_mask_of_the_step(kind):
    """Every pass of a step drops the same units: at no perturbation two of them are equal to the bit."""
    model = dense(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    lanes = lanes_of(model, kind=kind)
    x, y = batch(lanes=len(lanes.keys), classes=3)
    masks = []
    inner = PGDTraining(eps=0.0, steps=3, mode="train", random_start=False).inner

    def objective(inputs):
        masks.append(lanes.losses(inputs, y, train=True))
        return masks[-1]

    inner.climb(x, x, objective)
    assert len(masks) == 3
    assert all(torch.equal(values, masks[0]) for values in masks)
    assert torch.equal(lanes.losses(x, y, train=True), masks[0])
    assert not torch.equal(lanes.losses(x, y, train=False), masks[0])
    # so a step of no size in train mode is the plain step, mask and all
    step = PGDTraining(eps=0.0, steps=3, mode="train").local(gradient_step)
    assert all(torch.equal(a, b) for a, b in zip(step(lanes, x, y), gradient_step(lanes, x, y), strict=True))
    # and the attack in train mode is against the masked net: by hand, with the mask of the lane's key
    found = PGDTraining(eps=0.3, step=0.1, steps=2, mode="train", random_start=False).inner(lanes, x, y)
    state = lanes.state if kind != "single" else None
    if state is not None:
        net = model.instance(state[0]).train()
        next(part for part in net.modules() if isinstance(part, CounterDropout)).key = lanes.keys[0]
        leaf = x[0]
        for _ in range(2):
            leaf = leaf.detach().requires_grad_()
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(leaf), y[0]), leaf)
            leaf = (leaf + 0.1 * slope.sign()).detach()
        torch.testing.assert_close(found[0], leaf.clamp(0, 1))


def setting(bounds, task="classification", steps=5):
    return Setting(
        population=2,
        cohort=2,
        rounds=1,
        sampling="all",
        layout=flat(nn.Linear(2, 2)).layout,
        local_steps=steps,
        batch_size=None,
        has_batch_norm=False,
        task=task,
        bounds=bounds,
        stack=(),
    )


@pytest.mark.parametrize("name", DEFENSES)
def test_it_binds_honest_clients_only_and_refuses_what_has_no_neighbourhood(name):
    defense = DEFENSES[name]
    assert defense.enforcement == EnforcedBy.CLIENT
    assert not list(defense.problems(setting((0.0, 1.0))))
    assert "tokens" in defense.problems(setting(None))[0][0]
    if hasattr(defense, "bounds"):
        assert f"for {defense.name}" in defense.problems(setting((-1.0, 1.0)))[0][1]
        assert not list(replace(defense, bounds=(-1.0, 1.0)).problems(setting((-1.0, 1.0))))
    assert len(defense.problems(setting((0.0, 1.0), steps=1))) == int(name == "free-at")
    refuses = name.startswith(("fgsm-at", "trades"))
    assert len(defense.problems(setting((0.0, 1.0), "regression"))) == int(refuses)


@pytest.mark.parametrize("name", [name for name in DEFENSES if not name.startswith(("fgsm-at", "trades"))])
def test_regression_is_trained_where_it_is_not_refused(name):
    model = dense(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1), task="regression")
    lanes = lanes_of(model)
    x, _ = batch()
    y = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    step = DEFENSES[name].local(gradient_step)
    step(lanes, x, y)  # the first of free-at is plain
    found, plain = step(lanes, x, y), gradient_step(lanes, x, y)
    assert max((a - b).abs().max() for a, b in zip(found, plain, strict=True)) > 1e-4


def test_two_of_them_in_one_stack_compose():
    """The first of the stack perturbs first; a penalty on what it found is the penalty at the perturbed inputs."""
    lanes, (x, y) = lanes_of(dense(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))), batch(classes=3)
    outer, inner = PGDTraining(eps=0.1, steps=2), InputGradientPenalty(beta=0.3)
    found = outer.local(inner.local(gradient_step))(lanes, x, y)
    close(found, inner.local(gradient_step)(lanes, outer.inner(lanes, x, y), y))
