"""Which coordinates of an update say most about the examples behind it: maps to agree on before training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.models.flat import FlatModel


def label_sensitivity(model: FlatModel, vector: Tensor, examples: Examples) -> Tensor:
    """How much a label moves each parameter's gradient (FedML-HE, Jin et al. 2023, section 2.4).

    ``1/K sum_k | d/dy (d loss(x_k, y) / dw) |``, with the label as a distribution over classes and the loss as
    cross-entropy: the derivative by ``y_c`` is ``-d log p_c / dw``, and its norm is taken over the classes.

    Args:
        model: a classifier.
        vector: ``(d,)`` its state.
        examples: public ones.

    Returns:
        ``(p,)`` float64 over the trainable coordinates, not negative.
    """
    module = model.instance(vector)
    parameters = list(module.parameters())
    total = vector.new_zeros(model.layout.trainable, dtype=torch.float64)
    for example in examples.x.to(vector.device):
        chances = module(example[None]).log_softmax(-1).flatten()
        squares = torch.zeros_like(total)
        for chance in chances:
            gradients = torch.autograd.grad(chance, parameters, retain_graph=True, materialize_grads=True)
            squares += _flat(gradients).square()
        total += squares.sqrt()
    return total / len(examples)


def gradient_magnitude(model: FlatModel, vector: Tensor, examples: Examples) -> Tensor:
    """``1/K sum_k | d loss(x_k, y_k) / dw |``: for any task.

    Args:
        model: the architecture.
        vector: ``(d,)`` its state.
        examples: public ones.

    Returns:
        ``(p,)`` float64 over the trainable coordinates.
    """
    module = model.instance(vector)
    parameters = list(module.parameters())
    total = vector.new_zeros(model.layout.trainable, dtype=torch.float64)
    for place in range(len(examples)):
        one = examples.take([place]).to(vector.device)
        loss = model.loss(module(one.x), one.y).mean()
        total += _flat(torch.autograd.grad(loss, parameters, materialize_grads=True)).abs()
    return total / len(examples)


def most_sensitive(sensitivity: Tensor, share: float) -> Tensor:
    """The coordinates with the largest sensitivity, the first of equals; ``(p,)`` bool.

    Args:
        sensitivity: ``(p,)``.
        share: of the coordinates, rounded up.
    """
    count = sealed_count(len(sensitivity), share)
    chosen = torch.zeros(len(sensitivity), dtype=torch.bool, device=sensitivity.device)
    chosen[sensitivity.argsort(descending=True, stable=True)[:count]] = True
    return chosen


def sealed_count(size: int, share: float) -> int:
    """A share of ``size`` coordinates, rounded up."""
    # the tolerance keeps 0.1 * 30, which floating point makes 3.0000000000000004, at 3
    return min(size, math.ceil(share * size * (1 - 1e-12)))


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.detach().flatten() for gradient in gradients]).double()
