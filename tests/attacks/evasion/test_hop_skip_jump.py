import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.attacks.evasion.hop_skip_jump import hop_skip_jump
from fedsec.ball import lengths

from .networks import drawn, net_of


def attacked(net, x, y, **others):
    return hop_skip_jump(net, x, y, generator=torch.Generator().manual_seed(0), **others)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_a_linear_model_is_met_at_its_margin(norm, dual):
    net = net_of(nn.Linear(6, 2), seed=3)
    w, b = (net[0].weight[0] - net[0].weight[1]).detach(), (net[0].bias[0] - net[0].bias[1]).detach()
    x = drawn(30, 6, seed=5)
    score = x @ w + b
    y, margin = (score < 0).long(), score.abs() / w.norm(p=dual)
    found = attacked(net, x, y, norm=norm, bounds=(-3.0, 3.0), steps=25)
    distance = lengths(found - x, norm).flatten()
    assert (net(found).argmax(-1) != y).all()
    assert (distance >= margin - 1e-4).all()
    assert distance.sum() < 1.1 * margin.sum()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), eps=st.floats(0, 1), norm=st.sampled_from(["linf", "l2"]))
def test_no_point_leaves_the_ball_or_the_bounds(seed, eps, norm):
    net = net_of(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3), seed=seed)
    x, y = drawn(7, 2, 4, seed=seed) * 3 - 1, torch.arange(7) % 3
    found = attacked(net, x, y, eps=eps, norm=norm, steps=2, batch=20, bounds=(-1.0, 2.0), tries=10)
    assert (lengths(found - x, norm) <= eps + 1e-5).all()
    assert found.min() >= -1
    assert found.max() <= 2
    same = (found == x).flatten(1).all(1)
    assert (net(found).argmax(-1) != y)[~same].all()


def test_an_examples_path_does_not_depend_on_its_batch():
    net = net_of(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = drawn(6, 6).double()
    y = net(x).argmax(-1)
    together = attacked(net, x, y, steps=4, batch=20)
    alone = torch.cat([attacked(net, x[i : i + 1], y[i : i + 1], steps=4, batch=20) for i in range(6)])
    assert not torch.equal(together, x)
    assert torch.allclose(together, alone, atol=1e-8)


def test_a_constant_model_is_never_misread_and_costs_the_tries():
    net, passes, x = net_of(nn.Linear(4, 2)), Passes(), drawn(5, 4)
    net[0].weight.data.zero_()
    net[0].bias.data = torch.tensor([1.0, 0.0])
    found = attacked(net, x, torch.tensor([0, 0, 0, 0, 1]), tries=7, passes=passes)
    assert torch.equal(found, x)
    assert (passes.forwards, passes.backwards) == (5 + 4 * 7, 0)


def test_a_target_is_kept_from_the_start_given():
    net = net_of(nn.Linear(6, 4), seed=2)
    x = drawn(40, 6) * 4 - 2
    read = net(x).argmax(-1)
    targets, start = read.roll(1), x.roll(1, 0)
    found = attacked(net, x, read, targets=targets, start=start, tries=0, steps=3, batch=30, bounds=(-2.0, 2.0))
    assert torch.equal(net(found).argmax(-1), targets)
    assert ((found - x).norm(dim=1) <= (start - x).norm(dim=1)).all()


@pytest.mark.parametrize(("what", "match"), [({"generator": None}, "generator"), ({"norm": "l1"}, "linf and l2")])
def test_what_it_cannot_do_is_refused(what, match):
    net, x, y = net_of(nn.Linear(2, 2)), drawn(1, 2), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=match):
        hop_skip_jump(net, x, y, **{"generator": torch.Generator(), **what})
