import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.carlini_wagner import carlini_wagner
from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.attacks.evasion.hyperplane import size

from .networks import digits, drawn, net_of, reference_network, reference_record, small

QUICK = {"searches": 4, "steps": 40, "rate": 0.1}


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_a_linear_model_of_two_classes_falls_at_its_exact_margin(norm, dual):
    net = net_of(nn.Linear(6, 2), seed=3)
    w, b = (net[0].weight[0] - net[0].weight[1]).detach(), (net[0].bias[0] - net[0].bias[1]).detach()
    x = drawn(8, 6, seed=5)
    score = x @ w + b
    y = (score < 0).long()
    margin = score.abs() / w.norm(p=dual)
    found = carlini_wagner(net, x, y, norm=norm, bounds=(-1.0, 2.0), steps=400)
    assert (net(found).argmax(-1) != y).all()
    assert torch.allclose(size(found - x, norm), margin, rtol=2e-3, atol=1e-4)
    eps = margin.median().item()
    near = carlini_wagner(net, x, y, norm=norm, bounds=(-1.0, 2.0), steps=400, eps=eps)
    fooled = net(near).argmax(-1) != y
    clear = (margin / eps - 1).abs() > 5e-3
    assert torch.equal(fooled[clear], (margin < eps)[clear])
    assert torch.equal(near[~fooled], x[~fooled])


def test_the_nearest_of_many_boundaries_is_reached_and_a_target_where_it_is_asked_for():
    net = net_of(nn.Linear(5, 4), seed=7)
    x = drawn(20, 5)
    logits, weights = net(x).detach(), net[0].weight.detach()
    y = logits.argmax(-1)
    gaps = logits.gather(1, y[:, None]) - logits
    margins = (gaps / (weights[y][:, None] - weights[None]).norm(dim=2)).nan_to_num(nan=torch.inf)
    found = carlini_wagner(net, x, y, bounds=(-1.5, 2.5))
    assert torch.allclose(size(found - x, "l2"), margins.amin(1), rtol=1e-2, atol=1e-4)  # two are almost equally far
    targets = (y + 1) % 4
    aimed = carlini_wagner(net, x, y, bounds=(-1.5, 2.5), targets=targets, steps=300)
    reached = net(aimed).argmax(-1) == targets
    assert reached.float().mean() > 0.5
    assert (size(aimed - x, "l2")[reached] >= margins.gather(1, targets[:, None])[reached, 0] - 1e-4).all()
    assert torch.equal(aimed[~reached], x[~reached])


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), eps=st.floats(0, 1), norm=st.sampled_from(["linf", "l2"]))
def test_a_point_is_misread_and_lies_in_the_ball_and_the_bounds_or_is_the_input(seed, eps, norm):
    net = small(seed)
    x, y = drawn(7, 2, 4, seed=seed), torch.arange(7) % 3
    high, low = torch.ones(2, 4), torch.zeros(2, 4)
    high[1] = 2.0
    low, high = low.expand_as(x).clone(), high.expand_as(x).clone()
    low[:, 0] = high[:, 0] = x[:, 0]
    found = carlini_wagner(net, x, y, eps=eps, norm=norm, bounds=(low, high), **QUICK)
    assert (size(found - x, norm) <= eps).all()
    assert (found >= low).all()
    assert (found <= high).all()
    moved = (found != x).flatten(1).any(1)
    assert torch.equal(net(found).argmax(-1) != y, moved | (net(x).argmax(-1) != y))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_example_does_not_depend_on_its_batch_and_leaves_it_when_done(norm):
    net = small(2)
    x = drawn(6, 2, 4, seed=1)
    y = net(x).argmax(-1)
    whole, single = Passes(), Passes()
    together = carlini_wagner(net, x, y, norm=norm, passes=whole, **QUICK)
    alone = [carlini_wagner(net, x[i : i + 1], y[i : i + 1], norm=norm, passes=single, **QUICK) for i in range(6)]
    assert torch.allclose(size(together - x, norm), size(torch.cat(alone) - x, norm), rtol=0.02, atol=1e-3)
    assert abs(whole.backwards / single.backwards - 1) < 0.1


def test_what_is_misread_already_stays_and_costs_one_look():
    net, x = small(), drawn(5, 2, 4)
    y = (net(x).argmax(-1) + 1) % 3
    cost = Passes()
    assert torch.equal(carlini_wagner(net, x, y, passes=cost), x)
    assert (cost.forwards, cost.backwards) == (5, 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_model_that_reads_everything_alike_is_not_fooled(norm):
    net = net_of(nn.Flatten(), nn.Linear(8, 3))
    net[1].weight.data.zero_()
    net[1].bias.data = torch.tensor([1.0, 0.0, 0.0])
    x, y = drawn(4, 2, 4), torch.zeros(4, dtype=torch.long)
    assert torch.equal(carlini_wagner(net, x, y, norm=norm, **QUICK), x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_feature_at_its_bound_can_move(norm):
    net = net_of(nn.Linear(3, 2))
    net[0].weight.data = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, -0.5]])
    net[0].bias.data = torch.tensor([0.3, -0.3])
    x, y = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([0])
    found = carlini_wagner(net, x, y, norm=norm)
    assert (net(found).argmax(-1) == 1).all()
    assert ((found - x).abs() > 0.1).all()


def test_confidence_is_a_lead_of_the_wrong_logit():
    net = small(2)
    x = drawn(6, 2, 4, seed=1)
    y = net(x).argmax(-1)
    found = carlini_wagner(net, x, y, confidence=0.2, bounds=(-1.0, 2.0), **QUICK)
    moved = (found != x).flatten(1).any(1)
    logits = net(found).detach()[moved]
    own = logits.gather(1, y[moved][:, None])[:, 0]
    assert moved.any()
    assert (logits.amax(1) - own > 0.2 - 1e-5).all()


def test_the_model_is_left_as_it_was():
    net = net_of(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    net.train()
    net[0].weight.requires_grad_(False)
    before, chance = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    carlini_wagner(net, drawn(5, 4), torch.arange(5) % 3, searches=2, steps=5)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(part.training for part in net)
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(chance, torch.get_rng_state())


def test_what_makes_no_sense_is_refused():
    net, x, y = net_of(nn.Linear(2, 2)), drawn(1, 2), torch.zeros(1, dtype=torch.long)
    for given_, word in (({"norm": "l1"}, "l1"), ({"bounds": (0.0, torch.inf)}, "finite"), ({"steps": 0}, "at least")):
        with pytest.raises(ValueError, match=word):
            carlini_wagner(net, x, y, **given_)


@pytest.mark.data
def test_a_fifth_of_the_steps_is_within_two_percent_of_the_recorded_nine_times_a_thousand():
    net, rows = reference_network("standard"), slice(0, 20)
    x, y = digits(rows)
    recorded = torch.tensor(reference_record()["minimal_distortion_standard_first_100"]["cw_l2_long"]["l2"][rows])
    found = carlini_wagner(net, x, y, steps=200, rate=0.05)
    assert (net(found).argmax(-1) != y).all()
    assert size(found - x, "l2").mean() <= 1.02 * recorded.mean()
