import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.attacks.evasion.square import _bump, _shares, square
from fedsec.ball import lengths

from .networks import digits, drawn, net_of, reference_network, reference_record


def attacked(net, x, y, *, seed=0, **others):
    return square(net, x, y, generator=torch.Generator().manual_seed(seed), **others)


def linear(x, dim=6):
    net = net_of(nn.Flatten(), nn.Linear(dim, 2), seed=3)
    w, b = (net[1].weight[0] - net[1].weight[1]).detach(), (net[1].bias[0] - net[1].bias[1]).detach()
    score = x.flatten(1) @ w + b
    return net, (score < 0).long(), score.abs(), w


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (2, 3)])
def test_a_linear_model_falls_exactly_beyond_its_margin_in_linf(shape):
    x = drawn(100, *shape, seed=5)
    net, y, score, w = linear(x)
    margin = score / w.abs().sum()
    eps = margin.median().item()
    found = attacked(net, x, y, eps=eps, queries=1500, bounds=(-10.0, 10.0))
    clear = (margin - eps).abs() > 1e-4
    assert torch.equal((net(found).argmax(-1) != y)[clear], (margin < eps)[clear])


@pytest.mark.parametrize(("shape", "reach"), [((25,), 0.9), ((1, 5, 5), 0.6)])
def test_a_linear_model_falls_near_its_margin_and_never_within_it_in_l2(shape, reach):
    """Bumps on 5x5 pixels do not span every direction, groups of features do."""
    x = drawn(100, *shape, seed=5)
    net, y, score, w = linear(x, 25)
    margin = score / w.norm()
    eps = margin.median().item()
    found = attacked(net, x, y, eps=eps, norm="l2", queries=1500, bounds=(-10.0, 10.0))
    fooled = net(found).argmax(-1) != y
    assert not fooled[margin > eps + 1e-4].any()
    assert fooled[margin < reach * eps].all()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    eps=st.floats(0, 1),
    norm=st.sampled_from(["linf", "l2"]),
    shape=st.sampled_from([(2, 4), (2, 4, 1), (8,), (1, 1, 8)]),
    aimed=st.booleans(),
)
def test_no_point_leaves_the_ball_or_the_bounds(seed, eps, norm, shape, aimed):
    net = net_of(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3), seed=seed)
    x, y = drawn(7, *shape, seed=seed) * 3 - 1, torch.arange(7) % 3
    targets = (y + 1) % 3 if aimed else None
    low, high = torch.full(shape, -1.0), torch.full(shape, 2.0)
    found = attacked(net, x, y, eps=eps, norm=norm, queries=30, bounds=(low, high), targets=targets, seed=seed)
    assert found.shape == x.shape
    assert (lengths(found - x, norm) <= eps + 1e-5).all()
    assert found.min() >= -1
    assert found.max() <= 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(2, 6, 6), (12,)])
def test_an_examples_path_depends_neither_on_its_batch_nor_on_who_is_left(norm, shape):
    net = net_of(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = drawn(20, *shape).double()
    y = net(x).argmax(-1)
    together = attacked(net, x, y, eps=0.1, norm=norm, queries=80)
    alone = torch.cat([attacked(net, x[i : i + 1], y[i : i + 1], eps=0.1, norm=norm, queries=80) for i in range(20)])
    assert 0 < (net(together).argmax(-1) != y).sum() < 20
    assert torch.allclose(together, alone, atol=1e-6)


def test_a_generator_moves_on_by_the_same_whatever_falls():
    net, x = net_of(nn.Linear(4, 3)), drawn(5, 4)
    right = net(x).argmax(-1)
    after = []
    for y in (right, (right + 1) % 3):
        generator = torch.Generator().manual_seed(0)
        square(net, x, y, eps=0.2, queries=20, generator=generator)
        after.append(torch.rand(1, generator=generator))
    assert after[0] == after[1]


def test_a_target_is_reached_where_it_can_be():
    net = net_of(nn.Linear(6, 4), seed=2)
    x, y = drawn(30, 6), torch.zeros(30, dtype=torch.long)
    targets = torch.arange(30) % 4
    found = attacked(net, x, y, eps=5.0, queries=300, bounds=(-5.0, 5.0), targets=targets)
    assert (net(found).argmax(-1) == targets).float().mean() > 0.9


def test_a_constant_model_is_fooled_nowhere_and_asked_what_the_budget_allows():
    net = net_of(nn.Flatten(), nn.Linear(16, 3))
    net[1].weight.data.zero_()
    net[1].bias.data = torch.tensor([1.0, 0.0, 0.0])
    passes, x = Passes(), drawn(6, 1, 4, 4)
    y = torch.tensor([0, 0, 0, 0, 1, 2])
    found = attacked(net, x, y, eps=0.2, queries=50, passes=passes)
    assert (net(found).argmax(-1) == 0).all()
    assert torch.equal(found[4:], x[4:])
    assert passes.backwards == 0
    assert 6 + 4 < passes.forwards < 6 + 4 * 50


def test_no_size_means_no_change():
    net, x, y = net_of(nn.Flatten(), nn.Linear(16, 3)), drawn(5, 1, 4, 4), torch.arange(5) % 3
    for norm in ("linf", "l2"):
        assert torch.equal(attacked(net, x, y, eps=0.0, norm=norm, queries=5), x)


def test_a_feature_whose_bounds_meet_never_moves():
    net, x = net_of(nn.Linear(6, 3)), drawn(20, 6)
    y = net(x).argmax(-1)
    low, high = torch.zeros_like(x), torch.ones_like(x)
    low[:, 2], high[:, 2] = x[:, 2], x[:, 2]
    for norm in ("linf", "l2"):
        found = attacked(net, x, y, eps=0.3, norm=norm, queries=40, bounds=(low, high))
        assert torch.equal(found[:, 2], x[:, 2])
        assert not torch.equal(found, x)


def test_the_model_and_the_global_generator_are_left_as_they_were():
    net = net_of(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    net.train()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    attacked(net, drawn(5, 4), torch.arange(5) % 3, eps=0.3, queries=10)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(part.training for part in net)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_the_shares_halve_at_the_papers_queries():
    shares = list(_shares(0.8, 10000))
    changes = [i for i in range(1, 10000) if shares[i] != shares[i - 1]]
    assert changes == [11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    assert shares[-1] == 0.8 / 512
    assert list(_shares(0.8, 5000)) == shares[::2]


def test_a_bump_has_two_equal_halves_of_opposite_sign():
    bump = _bump(5, torch.Generator().manual_seed(0))
    upright = bump if (bump[0] > 0).all() else bump.T
    assert bump.norm() == pytest.approx(1)
    assert (upright[:2] > 0).all()
    assert (upright[2:] < 0).all()
    assert upright[:2].norm() == pytest.approx(upright[2:].norm().item())
    # three rows of five: the middle lies on rings 0, 1 and 2 with 1 + 1/4 + 1/9, 1/4 + 1/9 and 1/9
    ratio = upright[3] / upright[3, 2]
    assert torch.allclose(ratio, torch.tensor([4, 13, 49, 13, 4]) / 49, atol=1e-6)


@pytest.mark.parametrize(
    ("what", "match"),
    [({"generator": None}, "generator"), ({"queries": 0}, "query"), ({"norm": "l1"}, "linf and l2")],
)
def test_what_it_cannot_do_is_refused(what, match):
    net, x, y = net_of(nn.Linear(2, 2)), drawn(1, 2), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=match):
        square(net, x, y, **{"eps": 0.1, "generator": torch.Generator(), **what})


def test_a_sequence_of_volumes_is_refused():
    with pytest.raises(ValueError, match="shape"):
        attacked(nn.Flatten(), drawn(1, 2, 2, 2, 2), torch.zeros(1, dtype=torch.long), eps=0.1)


@pytest.mark.data
def test_reference_networks_fall_where_the_authors_code_says_so():
    x, y = digits(slice(60))
    right = {}
    for name, queries in (("standard", 500), ("pgd", 200)):
        net = reference_network(name)
        right[name] = net(attacked(net, x, y, eps=0.3, queries=queries)).argmax(-1) == y
    reference = reference_record()["networks"]["pgd"]["attacks"][0]
    (flags,) = (stage["flags"] for stage in reference["stages"] if stage["stage"] == "square")
    robust = torch.tensor([flag == "1" for flag in flags[:60]])
    assert right["standard"].sum() <= 1
    assert right["pgd"][robust].all()
