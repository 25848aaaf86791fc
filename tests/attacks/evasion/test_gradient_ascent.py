import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.gradient_ascent import Passes, fgsm, pgd
from fedsec.ball import lengths

from .networks import drawn, net_of


def linear(dim=6):
    """A two-class linear model whose exact margins are known."""
    net = net_of(nn.Linear(dim, 2), seed=3)
    return net, (net[0].weight[0] - net[0].weight[1]).detach(), (net[0].bias[0] - net[0].bias[1]).detach()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_linear_model_falls_exactly_beyond_its_margin(norm, dual, attack):
    net, w, b = linear()
    x = drawn(200, 6, seed=5)
    score = x @ w + b
    y = (score < 0).long()
    margin = score.abs() / w.norm(p=dual)
    eps = margin.median().item()
    wide = (-10.0, 10.0)
    if attack == "fgsm":
        found = fgsm(net, x, y, eps=eps, norm=norm, bounds=wide)
    else:
        found = pgd(net, x, y, eps=eps, norm=norm, bounds=wide, steps=20)
    fooled = net(found).argmax(-1) != y
    clear = (margin - eps).abs() > 1e-5
    assert torch.equal(fooled[clear], (margin < eps)[clear])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    eps=st.floats(0, 1),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    restarts=st.integers(1, 2),
    drop=st.booleans(),
)
def test_pgd_never_leaves_the_ball_or_the_bounds(seed, eps, norm, restarts, drop):
    net = net_of(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3), seed=seed)
    x, y = drawn(7, 2, 4, seed=seed) * 3 - 1, torch.arange(7) % 3
    found = pgd(
        net,
        x,
        y,
        eps=eps,
        norm=norm,
        steps=4,
        step=0.3,
        restarts=restarts,
        bounds=(-1.0, 2.0),
        drop_fooled=drop,
        generator=torch.Generator().manual_seed(seed),
    )
    assert found.shape == x.shape
    assert (lengths(found - x, norm) <= eps + 1e-5).all()
    assert found.min() >= -1
    assert found.max() <= 2


def test_no_size_means_no_change():
    net, x, y = net_of(nn.Linear(4, 3)), drawn(5, 4), torch.arange(5) % 3
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(fgsm(net, x, y, eps=0.0), x)
    assert torch.equal(pgd(net, x, y, eps=0.0, steps=3, generator=generator, restarts=2), x)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_examples_path_does_not_depend_on_its_batch(norm):
    net = net_of(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = drawn(9, 6), torch.arange(9) % 3
    together = pgd(net, x, y, eps=0.2, norm=norm, steps=7)
    alone = torch.cat([pgd(net, x[i : i + 1], y[i : i + 1], eps=0.2, norm=norm, steps=7) for i in range(9)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_model_is_left_as_it_was():
    net = net_of(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    pgd(net, drawn(5, 4), torch.arange(5) % 3, eps=0.3, steps=3)
    fgsm(net, drawn(5, 4), torch.arange(5) % 3, eps=0.3)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert [part.training for part in net] == [True, False, True, True]
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())


def test_dropping_fooled_examples_loses_none_and_saves_passes():
    net = net_of(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = drawn(60, 6), torch.arange(60) % 3
    short, full = Passes(), Passes()
    dropped = pgd(net, x, y, eps=0.15, steps=20, passes=short)
    kept = pgd(net, x, y, eps=0.15, steps=20, drop_fooled=False, passes=full)
    wrong = net(x).argmax(-1) != y
    fooled_dropped, fooled_kept = (net(z).argmax(-1) != y for z in (dropped, kept))
    assert wrong.any()
    assert (fooled_dropped >= wrong).all()
    assert (fooled_dropped >= fooled_kept).all()
    assert fooled_kept.any()
    assert short.backwards < full.backwards == 60 * 20
    assert torch.equal(dropped[wrong], x[wrong])


def test_restarts_can_only_help():
    net = net_of(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3), seed=8)
    x, y = drawn(150, 6), torch.zeros(150, dtype=torch.long)

    def fooled(restarts):
        generator = torch.Generator().manual_seed(4)
        found = pgd(net, x, y, eps=0.12, steps=2, step=0.05, restarts=restarts, generator=generator)
        return int((net(found).argmax(-1) != y).sum())

    assert fooled(1) <= fooled(6)


def test_a_target_is_reached_where_it_can_be():
    net = net_of(nn.Linear(6, 4), seed=2)
    x, y = drawn(30, 6), torch.zeros(30, dtype=torch.long)
    targets = torch.arange(30) % 4
    found = pgd(net, x, y, eps=5.0, steps=40, bounds=(-5.0, 5.0), targets=targets)
    reached = (net(found).argmax(-1) == targets).float().mean()
    untargeted = (net(pgd(net, x, y, eps=5.0, steps=40, bounds=(-5.0, 5.0))).argmax(-1) == targets).float().mean()
    assert reached > 0.9
    assert reached > untargeted
    assert (net(fgsm(net, x, y, eps=0.0, targets=targets)) == net(x)).all()


def test_an_input_at_the_bound_still_has_a_gradient():
    """Clamping inside the graph would stop every pixel that is exactly 0 or 1."""
    net, w, _ = linear()
    x = (w > 0).float().expand(3, 6).clone()
    y = torch.zeros(3, dtype=torch.long)
    found = pgd(net, x, y, eps=0.3, steps=10, drop_fooled=False)
    assert torch.allclose(found, x - 0.3 * w.sign())


def test_a_start_is_projected_and_used():
    net, x, y = net_of(nn.Linear(6, 3)), drawn(4, 6), torch.zeros(4, dtype=torch.long)
    far = pgd(net, x, y, eps=0.1, steps=1, step=0.0, start=torch.ones_like(x), drop_fooled=False)
    assert torch.allclose(far, (x + 0.1).clamp(max=1.0), atol=1e-6)


def test_restarts_without_a_generator_are_refused():
    with pytest.raises(ValueError, match="generator"):
        pgd(net_of(nn.Linear(2, 2)), drawn(1, 2), torch.zeros(1, dtype=torch.long), eps=0.1, restarts=2)


def test_a_step_in_l1_leaves_out_what_a_bound_stops():
    net, w, _ = linear()
    x = torch.full((1, 6), 0.5)
    x[0, w.abs().argmax()] = 0.0 if w[w.abs().argmax()] > 0 else 1.0
    found = pgd(net, x, torch.zeros(1, dtype=torch.long), eps=0.1, norm="l1", steps=5, drop_fooled=False)
    moved = (found - x)[0]
    second = w.abs().argsort()[-2]
    assert moved[second].item() == pytest.approx(-0.1 * w[second].sign().item(), abs=1e-6)
    assert moved.abs().sum().item() == pytest.approx(0.1, abs=1e-6)
