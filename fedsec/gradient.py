"""Gradients of a fixed model with respect to its inputs, leaving no trace in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from fedsec.narrow_convolution import fast_input_gradients


@contextmanager
def frozen(model: nn.Module, *, exact: bool = False) -> Iterator[nn.Module]:
    """The model in eval mode and without parameter gradients; every module's mode and every flag are put back.

    Parameters that ask for no gradient save a third of each backward pass, and nothing can end in their ``grad``.

    Args:
        model: changed while the context lasts.
        exact: gradients for inputs equal to the bit to those of the module alone; else up to rounding, and faster on a
            CPU where the first layer is a convolution (`fedsec.narrow_convolution`).
    """
    modes = [(part, part.training) for part in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with nullcontext() if exact else fast_input_gradients(model):
            yield model
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def input_gradient(objective: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of summed losses with respect to the inputs.

    The sum, not the mean: examples do not mix, so the sum's gradient is each example's own whatever the batch.

    Args:
        objective: inputs to ``(losses, outputs)``; losses of any shape.
        x: inputs, floating point; neither changed nor made to require gradients.

    Returns:
        The gradient, shaped like ``x``, and the outputs, detached. Zero where the losses do not depend on the inputs
        in a way that can be differentiated (a model that rounds or compares them).
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        losses, outputs = objective(leaf)
        if not losses.requires_grad:
            return torch.zeros_like(leaf), outputs.detach()
        (gradient,) = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient, outputs.detach()
