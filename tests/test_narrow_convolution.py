"""Convolutions of few channels: outputs and both kinds of gradient against the library's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsec.gradient import frozen, input_gradient
from fedsec.narrow_convolution import eligible, fast_input_gradients, narrow_conv2d


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(
    channels=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    biased=st.booleans(),
    last=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_gradients_are_the_librarys(channels, kernel, stride, padding, size, biased, last):
    x, weight = drawn(3, channels, *size).requires_grad_(), drawn(5, channels, *kernel, seed=1).requires_grad_()
    bias = drawn(5, seed=2).requires_grad_() if biased else None
    wanted = nn.functional.conv2d(x, weight, bias, stride=stride, padding=padding)
    found = narrow_conv2d(x, weight, bias, stride=stride, padding=padding)
    assert torch.equal(found, wanted)
    flow = drawn(*wanted.shape, seed=3)
    if last:
        flow = flow.contiguous(memory_format=torch.channels_last)
    leaves = [x, weight] if bias is None else [x, weight, bias]
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, flow), torch.autograd.grad(wanted, leaves, flow), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_both_orders_of_gradient_pass_gradcheck():
    x, weight, bias = drawn(2, 2, 6, 5).requires_grad_(), drawn(3, 2, 3, 2).requires_grad_(), drawn(3).requires_grad_()

    def call(x, weight, bias):
        return narrow_conv2d(x, weight, bias, stride=(2, 1), padding=(1, 2))

    assert torch.autograd.gradcheck(call, (x, weight, bias))
    assert torch.autograd.gradgradcheck(call, (x, weight, bias))


def test_a_model_is_left_as_it_was_and_only_narrow_layers_change():
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(400, 3))
    x = drawn(2, 1, 14, 14, dtype=torch.float32)

    def losses(leaf):
        outputs = net(leaf)
        return outputs.square().sum(-1), outputs

    plain = input_gradient(losses, x)
    with frozen(net, exact=True):
        assert torch.equal(input_gradient(losses, x)[0], plain[0])
    with fast_input_gradients(net):
        assert [("forward" in part.__dict__) for part in net] == [True, False, False, False, False]
        with fast_input_gradients(net):
            found = input_gradient(losses, x)
        assert "forward" in net[0].__dict__
    assert "forward" not in net[0].__dict__
    assert torch.equal(found[1], plain[1])
    torch.testing.assert_close(found[0], plain[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(1, 4, 3, dilation=2),
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv1d(1, 4, 3),
        nn.Linear(3, 3),
    ],
)
def test_other_layers_keep_their_own_gradient(layer):
    assert not eligible(layer)
    assert eligible(nn.Conv2d(3, 8, 3, stride=2, padding=1))
