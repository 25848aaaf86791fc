import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.attacks.evasion.auto_pgd import apgd
from fedsec.attacks.evasion.gradient_ascent import Passes
from fedsec.attacks.evasion.margins import attack_loss, margin
from fedsec.ball import lengths

from .networks import drawn, net_of


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("aimed", [False, True])
def test_a_linear_model_of_two_classes_falls_exactly_beyond_its_margin(norm, dual, loss, aimed):
    net = net_of(nn.Linear(6, 2), seed=3)
    w, b = (net[0].weight[0] - net[0].weight[1]).detach(), (net[0].bias[0] - net[0].bias[1]).detach()
    x = drawn(200, 6, seed=5)
    y = (x @ w + b < 0).long()
    distance = (x @ w + b).abs() / w.norm(p=dual)
    eps = distance.median().item()
    found = apgd(
        net,
        x,
        y,
        eps=eps,
        norm=norm,
        loss=loss,
        steps=30,
        bounds=(-9.0, 9.0),
        targets=1 - y if aimed else None,
        generator=torch.Generator().manual_seed(0),
    )
    clear = (distance - eps).abs() > 1e-3
    assert torch.equal((net(found).argmax(-1) != y)[clear], (distance < eps)[clear])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    eps=st.floats(0, 1),
    norm=st.sampled_from(["linf", "l2"]),
    loss=st.sampled_from(["ce", "dlr"]),
)
def test_it_never_leaves_the_ball_or_the_bounds_of_each_feature(seed, eps, norm, loss):
    net = net_of(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3), seed=seed)
    low, high = -drawn(2, 4, seed=1), 1 + drawn(2, 4, seed=2)
    low[0, 0] = high[0, 0] = 0.5
    x, y = low + (high - low) * drawn(7, 2, 4, seed=seed), torch.arange(7) % 3
    generator = torch.Generator().manual_seed(seed)
    found = apgd(net, x, y, eps=eps, norm=norm, loss=loss, steps=6, restarts=2, bounds=(low, high), generator=generator)
    assert (lengths(found - x, norm) <= eps + 1e-5).all()
    assert (found >= low).all()
    assert (found <= high).all()


def test_an_examples_path_does_not_depend_on_its_batch():
    net = net_of(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = drawn(9, 6).double(), torch.arange(9) % 3
    together = apgd(net, x, y, eps=0.1, steps=12)
    alone = torch.cat([apgd(net, x[i : i + 1], y[i : i + 1], eps=0.1, steps=12) for i in range(9)])
    assert torch.allclose(together, alone, atol=1e-9)


def test_a_constant_model_is_not_misread_and_the_points_stay_in_the_ball():
    net = net_of(nn.Linear(4, 3))
    net[0].weight.data.zero_()
    x, y = drawn(5, 4), torch.full((5,), int(net[0].bias.argmax()))
    found = apgd(net, x, y, eps=0.1, loss="dlr", steps=8, generator=torch.Generator().manual_seed(0))
    assert (net(found).argmax(-1) == y).all()
    assert ((found - x).abs() <= 0.1 + 1e-6).all()


def test_misread_inputs_come_back_and_passes_are_counted():
    net = net_of(nn.Linear(4, 3))
    x = drawn(6, 4)
    y = net(x).argmax(-1)
    passes = Passes()
    assert torch.equal(apgd(net, x, (y + 1) % 3, eps=0.5, passes=passes), x)
    assert (passes.forwards, passes.backwards) == (6, 0)
    passes = Passes()
    apgd(net, x, y, eps=0.0, steps=10, passes=passes)
    assert (passes.forwards, passes.backwards) == (6 + 66, 66)


def test_the_ratio_does_not_change_with_the_scale_and_falls_back():
    logits, y = drawn(8, 5) * 4, torch.arange(8) % 5
    for targets in (None, (y + 1) % 5):
        assert torch.allclose(
            attack_loss(logits, y, targets, "dlr"), attack_loss(logits * 100, y, targets, "dlr"), atol=1e-5
        )
    ordered = logits[0].sort(descending=True).values
    expected = (ordered[0] if logits[0].argmax() != 0 else ordered[1]) - logits[0, 0]
    assert torch.allclose(attack_loss(logits, y, None, "dlr")[0], expected / (ordered[0] - ordered[2]))
    two = logits[:, :2]
    assert torch.equal(attack_loss(two, y % 2, None, "dlr"), margin(two, y % 2))


def test_what_cannot_be_done_is_refused():
    net, x, y = net_of(nn.Linear(2, 2)), drawn(1, 2), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="l1"):
        apgd(net, x, y, eps=0.1, norm="l1")
    with pytest.raises(ValueError, match="generator"):
        apgd(net, x, y, eps=0.1, restarts=2)
    with pytest.raises(ValueError, match="step"):
        apgd(net, x, y, eps=0.1, steps=0)


def test_the_model_is_left_as_it_was():
    net = net_of(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    state = torch.random.get_rng_state()
    apgd(net, drawn(5, 4), torch.arange(5) % 3, eps=0.3, steps=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.random.get_rng_state())
    assert net.training
    assert net[1].training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
