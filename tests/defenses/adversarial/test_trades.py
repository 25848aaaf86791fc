import pytest
import torch
from torch import nn

from fedsec.defenses.adversarial.trades import Trades, TradesStep, divergence
from fedsec.models.lanes import gradient_step

from .small_lanes import batch, close, dense, lanes_of

NET = (nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def wrapped_plain(lanes, x, y):
    """The plain step that does not look like it, so that nothing is fused."""
    return gradient_step(lanes, x, y)


@pytest.mark.parametrize("kind", ["stacked", "vmap", "single"])
def test_beta_zero_is_natural_training(kind):
    lanes = lanes_of(dense(*NET), kind=kind)
    x, y = batch(lanes=len(lanes.keys), classes=3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(Trades(beta=0.0).local(gradient_step)(lanes, x, y), gradient_step(lanes, x, y), strict=True)
    )
    # and so it is in the limit, where the penalty is computed
    close(Trades(beta=1e-9).local(gradient_step)(lanes, x, y), gradient_step(lanes, x, y))


def test_without_size_it_is_natural_training():
    lanes, (x, y) = lanes_of(dense(*NET)), batch(classes=3)
    close(Trades(eps=0.0).local(gradient_step)(lanes, x, y), gradient_step(lanes, x, y))


@pytest.mark.parametrize("step", [gradient_step, wrapped_plain])
def test_the_gradient_is_that_of_the_written_out_loss(step):
    model = dense(*NET)
    lanes, (x, y) = lanes_of(model), batch(classes=3)
    found = TradesStep(step, Trades(eps=0.2).inner, beta=3.0)(lanes, x, y)
    far = TradesStep(step, Trades(eps=0.2).inner, beta=3.0).farthest(lanes, x)
    for lane in range(2):
        net = model.instance(lanes.state[lane])
        clean, perturbed = net(x[lane]), net(far[lane])
        kl = nn.functional.kl_div(perturbed.log_softmax(-1), clean.softmax(-1), reduction="sum") / len(y[lane])
        loss = nn.functional.cross_entropy(clean, y[lane]) + 3.0 * kl
        close([part[lane] for part in found], torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_ascent_stays_in_the_box_and_climbs(norm):
    lanes, (x, _) = lanes_of(dense(*NET)), batch(classes=3)
    far = TradesStep(gradient_step, Trades(eps=0.2, norm=norm).inner, beta=1.0).farthest(lanes, x)
    delta = (far - x).flatten(2)
    assert (delta.abs().amax(-1) if norm == "linf" else delta.norm(dim=-1)).max() <= 0.2 + 1e-6
    assert 0 <= far.min() <= far.max() <= 1
    answers = lanes.outputs(x, train=False)
    near = x + 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert (
        divergence(answers, lanes.outputs(far, train=False)) > divergence(answers, lanes.outputs(near, train=False))
    ).all()


def test_divergence_is_that_of_torch():
    draw = torch.Generator().manual_seed(2)
    a, b = torch.randn(4, 5, generator=draw), torch.randn(4, 5, generator=draw)
    wanted = nn.functional.kl_div(b.log_softmax(-1), a.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(divergence(a, b), wanted)
    assert divergence(a, a).abs().max() == 0
