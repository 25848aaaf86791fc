import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.fab import fab
from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.attacks.evasion.hyperplane import size

from .networks import digits, drawn, net_of, reference_network, reference_record, small

NORMS = ["linf", "l2", "l1"]


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_models_distances_are_found_and_counted_only_inside_the_ball(norm, dual, targeted):
    net = net_of(nn.Linear(6, 2), seed=3)
    w, b = net[0].weight[0] - net[0].weight[1], net[0].bias[0] - net[0].bias[1]
    x = drawn(100, 6, seed=5)
    score = (x @ w + b).detach()
    y = (score < 0).long()
    margin = score.abs() / w.detach().norm(p=dual)
    wide, targets = (-20.0, 20.0), 1 - y if targeted else None
    near = fab(net, x, y, eps=torch.inf, norm=norm, bounds=wide, targets=targets, steps=60, drop_fooled=False)
    assert (net(near).argmax(-1) != y).all()
    # Beyond the boundary by less than 1 %, and never short of it.
    assert (size(near - x, norm) >= margin * (1 - 1e-4)).all()
    assert (size(near - x, norm) <= margin * 1.01 + 1e-4).all()
    eps = margin.median().item()
    found = fab(net, x, y, eps=eps, norm=norm, bounds=wide, targets=targets)
    fooled = net(found).argmax(-1) != y
    clear = (margin / eps - 1).abs() > 0.01
    assert torch.equal(fooled[clear], (margin < eps)[clear])
    assert (size(found - x, norm) <= eps).all()
    assert torch.equal(found[~fooled], x[~fooled])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    eps=st.floats(0, 1),
    norm=st.sampled_from(NORMS),
    restarts=st.integers(1, 2),
    drop=st.booleans(),
    patience=st.sampled_from([None, 2]),
)
def test_a_point_is_misread_and_lies_in_the_ball_and_the_bounds_or_is_the_input(
    seed, eps, norm, restarts, drop, patience
):
    net = small(seed)
    x, y = drawn(7, 2, 4, seed=seed) * 3 - 1, torch.arange(7) % 3
    low = torch.full((2, 4), -1.0)
    low[0] = 0.5
    x = torch.maximum(x, low)
    found = fab(
        net,
        x,
        y,
        eps=eps,
        norm=norm,
        steps=5,
        restarts=restarts,
        bounds=(low, 2.0),
        drop_fooled=drop,
        patience=patience,
        generator=torch.Generator().manual_seed(seed),
    )
    assert (size(found - x, norm) <= eps).all()
    assert (found >= low).all()
    assert found.max() <= 2
    moved = (found != x).flatten(1).any(1)
    assert torch.equal(net(found).argmax(-1) != y, moved | (net(x).argmax(-1) != y))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_an_examples_path_does_not_depend_on_its_batch(norm, targeted):
    net, x, y = small(), drawn(9, 2, 4), torch.arange(9) % 3
    targets = (y + 1) % 3 if targeted else None

    def attack(rows):
        wanted = targets[rows] if targeted else None
        return fab(net, x[rows], y[rows], eps=1.0, norm=norm, steps=7, targets=wanted, drop_fooled=False)

    alone = torch.cat([attack(slice(i, i + 1)) for i in range(9)])
    assert torch.allclose(attack(slice(0, 9)), alone, atol=1e-4)


def test_targets_are_reached_or_any_class_counts():
    net, x = small(classes=4, seed=2), drawn(60, 2, 4)
    y = net(x).argmax(-1)
    targets = (y + 1 + torch.arange(60) % 3) % 4
    wide = (-5.0, 5.0)
    strict = fab(net, x, y, eps=1.0, bounds=wide, targets=targets, steps=30)
    loose = fab(net, x, y, eps=1.0, bounds=wide, targets=targets, steps=30, any_class=True)
    moved = (strict != x).flatten(1).any(1)
    assert moved.any()
    assert torch.equal(net(strict).argmax(-1)[moved], targets[moved])
    assert (net(loose).argmax(-1) != y).sum() > moved.sum()


def test_features_whose_bounds_meet_are_never_touched():
    net, x = small(), drawn(40, 2, 4)
    y = net(x).argmax(-1)
    low, high = torch.zeros_like(x), torch.ones_like(x)
    low[:, 0] = high[:, 0] = x[:, 0]
    found = fab(net, x, y, eps=1.0, bounds=(low, high))
    assert torch.equal(found[:, 0], x[:, 0])
    assert (found[:, 1] != x[:, 1]).any()


def test_a_constant_model_changes_nothing():
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    for parameter in net.parameters():
        parameter.data.zero_()
    x = drawn(4, 2, 4)
    assert torch.equal(fab(net, x, torch.zeros(4, dtype=torch.long), eps=0.5), x)


def test_restarts_need_a_generator_and_add_points():
    net = net_of(nn.Flatten(), nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3), seed=8)
    x = drawn(100, 2, 4)
    y = net(x).argmax(-1)
    with pytest.raises(ValueError, match="generator"):
        fab(net, x, y, eps=0.1, restarts=2)

    def fooled(restarts):
        generator = torch.Generator().manual_seed(4)
        found = fab(net, x, y, eps=0.08, steps=2, restarts=restarts, generator=generator)
        return int((net(found).argmax(-1) != y).sum())

    assert fooled(1) <= fooled(5)


def test_passes_of_a_search_that_finds_nothing():
    """A forward pass judges a point and serves its gradient: one more than the steps, and the look at the input."""
    net, x = net_of(nn.Linear(6, 2), seed=3), drawn(10, 6)
    y = net(x).argmax(-1)
    cost = Passes()
    # The box is so small that no point in it is misread.
    fab(net, x, y, eps=0.1, bounds=(x - 1e-6, x + 1e-6), steps=7, targets=1 - y, passes=cost)
    assert (cost.forwards, cost.backwards) == (10 * (7 + 2), 10 * 7)


@pytest.mark.data
def test_the_reference_network_loses_what_the_official_cascade_says():
    """Of 40 images whose recorded outcomes of the whole cascade differ, FAB-T meets almost all by itself."""
    net = reference_network("pgd")
    record = reference_record()["networks"]["pgd"]
    robust = torch.tensor([int(flag) for flag in record["attacks"][0]["stages"][-1]["flags"]])
    clean = torch.tensor([int(flag) for flag in record["clean_flags"]])
    fragile, sturdy = ((robust == 0) & (clean == 1)).nonzero()[:20, 0], (robust == 1).nonzero()[:20, 0]
    rows = torch.cat([fragile, sturdy])
    x, y = digits(rows)
    logits = net(x).detach()
    assert torch.equal(logits.argmax(-1), y)
    left = torch.arange(len(x))
    for place in range(2, 5):
        targets = logits[left].topk(place).indices[:, -1]
        found = fab(net, x[left], y[left], eps=0.3, targets=targets, any_class=True, steps=40)
        assert (size(found - x[left], "linf") <= 0.3).all()
        left = left[net(found).argmax(-1) == y[left]]
    assert (left < len(fragile)).sum() <= 6
    assert (left >= len(fragile)).sum() == len(sturdy)
