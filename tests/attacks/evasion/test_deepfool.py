import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.deepfool import deepfool
from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.attacks.evasion.hyperplane import size

from .networks import digits, drawn, net_of, reference_network, reference_record, small


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_a_linear_model_of_two_classes_falls_two_percent_beyond_its_margin(norm, dual):
    net = net_of(nn.Linear(6, 2), seed=3)
    w, b = net[0].weight[0] - net[0].weight[1], net[0].bias[0] - net[0].bias[1]
    x = drawn(100, 6, seed=5)
    score = (x @ w + b).detach()
    y = (score < 0).long()
    margin = score.abs() / w.detach().norm(p=dual)
    cost = Passes()
    found = deepfool(net, x, y, norm=norm, bounds=(-20.0, 20.0), passes=cost)
    assert (net(found).argmax(-1) != y).all()
    assert torch.allclose(size(found - x, norm), 1.02 * margin, rtol=1e-3, atol=3e-4)
    assert (cost.forwards, cost.backwards) == (200, 100)
    eps = margin.median().item()
    near = deepfool(net, x, y, norm=norm, bounds=(-20.0, 20.0), eps=eps)
    fooled = net(near).argmax(-1) != y
    clear = (1.02 * margin / eps - 1).abs() > 0.02
    assert torch.equal(fooled[clear], (1.02 * margin < eps)[clear])
    assert torch.equal(near[~fooled], x[~fooled])


def test_the_nearest_of_many_boundaries_is_taken():
    net = net_of(nn.Linear(5, 6), seed=7)
    x = drawn(50, 5)
    logits = net(x).detach()
    y = logits.argmax(-1)
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = (net[0].weight[y][:, None] - net[0].weight[None]).norm(dim=2).detach()
    margin = torch.where(slopes > 0, gaps / slopes, torch.inf).amin(1)
    found = deepfool(net, x, y, bounds=(-20.0, 20.0))
    assert torch.allclose(size(found - x, "l2"), 1.02 * margin, rtol=1e-3, atol=3e-4)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), eps=st.floats(0, 1), norm=st.sampled_from(["linf", "l2"]))
def test_a_point_is_misread_and_lies_in_the_ball_and_the_bounds_or_is_the_input(seed, eps, norm):
    net = small(seed)
    x, y = drawn(7, 2, 4, seed=seed), torch.arange(7) % 3
    high = torch.ones_like(x)
    low = torch.zeros_like(x)
    low[:, 0] = high[:, 0] = x[:, 0]
    found = deepfool(net, x, y, eps=eps, norm=norm, steps=5, bounds=(low, high))
    assert (size(found - x, norm) <= eps).all()
    assert (found >= low).all()
    assert (found <= high).all()
    moved = (found != x).flatten(1).any(1)
    assert torch.equal(net(found).argmax(-1) != y, moved | (net(x).argmax(-1) != y))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_examples_path_does_not_depend_on_its_batch_and_each_is_misread_alone(norm):
    net, x = small(), drawn(40, 2, 4)
    y = net(x).argmax(-1)
    together = deepfool(net, x, y, norm=norm, bounds=(-9.0, 9.0))
    alone = torch.cat([deepfool(net, x[i : i + 1], y[i : i + 1], norm=norm, bounds=(-9.0, 9.0)) for i in range(40)])
    assert torch.allclose(together, alone, atol=1e-4)
    moved = (together != x).flatten(1).any(1)
    assert moved.any()
    assert all(net(together[i : i + 1]).argmax() != y[i] for i in moved.nonzero()[:, 0])


def test_a_target_is_reached():
    net, x = net_of(nn.Linear(5, 4), seed=2), drawn(30, 5)
    targets = torch.arange(30) % 4
    found = deepfool(net, x, net(x).argmax(-1), targets=targets, bounds=(-30.0, 30.0))
    assert torch.equal(net(found).argmax(-1), targets)


def test_a_constant_model_changes_nothing_and_other_norms_are_refused():
    net = nn.Linear(3, 3)
    for parameter in net.parameters():
        parameter.data.zero_()
    x, y = drawn(4, 3), torch.zeros(4, dtype=torch.long)
    assert torch.equal(deepfool(net, x, y), x)
    with pytest.raises(ValueError, match="l1"):
        deepfool(net, x, y, norm="l1")


@pytest.mark.data
def test_distances_on_the_reference_network_are_those_of_foolbox():
    net = reference_network("standard")
    truth = torch.tensor(reference_record()["minimal_distortion_standard_first_100"]["deepfool_l2"]["l2"])
    x, y = digits(slice(100))
    found = deepfool(net, x, y)
    assert (net(found).argmax(-1) != y).all()
    distances = size(found - x, "l2")
    assert distances.mean().item() == pytest.approx(truth.mean().item(), rel=0.02)
    assert ((distances / truth - 1).abs() < 0.02).float().mean() > 0.9
