import pytest
import torch
from torch import nn

from fedsec.gradient import frozen, input_gradient


def test_frozen_puts_every_mode_and_flag_back_even_after_an_error():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    net.train()
    net[1].eval()
    net[0].bias.requires_grad_(False)

    def fail():
        with frozen(net):
            assert not any(part.training for part in net.modules())
            assert not any(p.requires_grad for p in net.parameters())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [part.training for part in net.modules()] == [True, True, False, True]
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]


def test_the_gradient_is_each_examples_own_and_touches_nothing():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with torch.no_grad():
        gradient, outputs = input_gradient(lambda leaf: ((leaf @ weight) ** 2, leaf @ weight), x)
    assert torch.allclose(gradient, (2 * (x @ weight)[:, None] * weight).detach())
    assert not outputs.requires_grad
    assert not x.requires_grad
    assert weight.grad is None
