import pytest
import torch
from torch import nn

from fedsec.attacks.evasion.basic_iterative import bim, fgm
from fedsec.attacks.evasion.gradient_ascent import Passes, pgd

from .networks import drawn


def linear(dim=6):
    """A two-class linear model whose exact margins are known."""
    net = nn.Linear(dim, 2)
    net.weight.data, net.bias.data = drawn(2, dim, seed=3) * 2 - 1, drawn(2, seed=4) * 2 - 1
    return net, (net.weight[0] - net.weight[1]).detach(), (net.bias[0] - net.bias[1]).detach()


@pytest.mark.parametrize(("attack", "dual"), [(bim, 1), (fgm, 2)])
def test_a_linear_model_falls_exactly_beyond_its_margin(attack, dual):
    net, w, b = linear()
    x = drawn(200, 6, seed=5)
    score = x @ w + b
    y = (score < 0).long()
    margin = score.abs() / w.norm(p=dual)
    eps = margin.median().item()
    fooled = net(attack(net, x, y, eps=eps, bounds=(-10.0, 10.0))).argmax(-1) != y
    clear = (margin - eps).abs() > 1e-5
    assert torch.equal(fooled[clear], (margin < eps)[clear])


def test_fgm_moves_along_the_gradient_by_the_length_given():
    net, w, _ = linear()
    x, y = drawn(20, 6), torch.zeros(20, dtype=torch.long)
    found = fgm(net, x, y, eps=0.5, bounds=(-10.0, 10.0))
    assert torch.allclose(found - x, (-0.5 * w / w.norm()).expand_as(x), atol=1e-6)
    toward = fgm(net, x, y, eps=0.5, bounds=(-10.0, 10.0), targets=y)
    assert torch.allclose(toward - x, (0.5 * w / w.norm()).expand_as(x), atol=1e-6)


@pytest.mark.parametrize(("eps", "steps"), [(8 / 255, 10), (16 / 255, 20), (76.5 / 255, 80), (0.5 / 255, 1), (0.0, 1)])
def test_bim_makes_the_papers_number_of_steps(eps, steps):
    net, _, _ = linear()
    passes, x = Passes(), drawn(5, 6)
    bim(net, x, torch.zeros(5, dtype=torch.long), eps=eps, drop_fooled=False, passes=passes)
    assert passes.backwards == 5 * steps


def test_bim_is_pgd_from_the_input_itself():
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = drawn(9, 6), torch.arange(9) % 3
    found = bim(net, x, y, eps=0.2, step=0.05, steps=7, norm="l2")
    assert torch.equal(found, pgd(net, x, y, eps=0.2, step=0.05, steps=7, norm="l2", start=x))


def test_a_misread_input_stays_and_a_target_is_reached():
    net, _, _ = linear()
    x = drawn(20, 6)
    read = net(x).argmax(-1)
    assert torch.equal(bim(net, x, 1 - read, eps=0.3), x)
    aimed = bim(net, x, read, eps=5.0, step=0.1, bounds=(-10.0, 10.0), targets=1 - read)
    assert torch.equal(net(aimed).argmax(-1), 1 - read)


def test_no_length_gives_no_number_of_steps():
    net, _, _ = linear()
    with pytest.raises(ValueError, match="length"):
        bim(net, drawn(1, 6), torch.zeros(1, dtype=torch.long), eps=0.1, step=0.0)
