"""Inputs of one linear layer in closed form: pure functions on its gradient.

A linear layer ``z = W h + b`` has ``dL/dW_i = sum_b delta_bi h_b`` and ``dL/db_i = sum_b delta_bi``. A row in which a
single example of the batch is active therefore gives that example: ``h = (dL/dW_i) / (dL/db_i)`` (Phong et al. 2018,
section 3; Geiping et al. 2020, proposition 3.1). The learning rate, the number of steps and clipping by norm cancel in
the ratio, so the update itself is as good as a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def invert_linear(weight_grad: Tensor, bias_grad: Tensor) -> Tensor:
    """The input that each row of a linear layer's gradient gives, where it can be divided.

    Exact to rounding for rows in which one example of the batch is alone, as all are for a batch of one; any other
    row gives a weighted sum of the examples that are active in it. Rows whose bias gradient is 0 (a unit that
    no example activates), and rows whose ratio overflows, are left out. Gradients and updates serve alike.

    Args:
        weight_grad: ``(out, in)`` gradient or update of the layer's weight.
        bias_grad: ``(out,)`` that of its bias.

    Returns:
        ``(k, in)`` in the order of the rows, ``k <= out``.

    Raises:
        ValueError: the shapes do not fit.
    """
    if weight_grad.ndim != 2 or bias_grad.shape != weight_grad.shape[:1]:
        raise ValueError(
            "expected weight_grad (out, in) and bias_grad (out,), found"
            f" {tuple(weight_grad.shape)} and {tuple(bias_grad.shape)}"
        )
    divisible = bias_grad != 0
    rows = rows_alone(weight_grad[divisible], bias_grad[divisible])
    return rows[rows.isfinite().all(1)]


def rows_alone(weight: Tensor, bias: Tensor) -> Tensor:
    """``x_i = weight_i / bias_i`` for every row, exact for rows in which one example of the batch is alone.

    Args:
        weight: ``(m, f)`` gradient or update of a layer's weight.
        bias: ``(m,)`` that of its bias; rows with 0 give rows of zeros.

    Returns:
        ``(m, f)``.
    """
    safe = torch.where(bias == 0, torch.ones_like(bias), bias)
    return torch.where((bias == 0).unsqueeze(1), torch.zeros_like(weight), weight / safe.unsqueeze(1))


def single_input(weight: Tensor, bias: Tensor, keep: Tensor | None = None) -> Tensor:
    """The input behind rows that all saw the same example: least squares over ``weight_i = bias_i x``, ``(f,)``.

    Weighs each row by ``bias_i**2``, the inverse variance of ``weight_i / bias_i`` under equal noise, so it is the best
    that an update with independent Gaussian noise allows to first order.

    Args:
        weight: ``(m, f)`` gradient or update of a layer's weight.
        bias: ``(m,)`` that of its bias.
        keep: ``(m, f)`` bool, entries to use; all if ``None``. A value that no entry tells is 0.
    """
    if keep is None:
        return bias @ weight / bias.square().sum().clamp_min(1e-30)
    return bias @ (weight * keep) / (bias.square() @ keep.to(weight)).clamp_min(1e-30)


def scaled_to_bounds(directions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Inputs known up to a factor, as long as the bounds allow; of the two signs the one that reaches further.

    Values below a thousandth of the largest do not limit the length, as they may be noise around zero.

    Args:
        directions: ``(k, f)``.
        low: ``(f,)`` lowest value of each of the layer's inputs.
        high: ``(f,)`` highest.

    Returns:
        ``(k, f)`` inside the bounds.
    """
    matters = directions.abs() > 1e-3 * directions.abs().amax(1, keepdim=True)

    def reach(signed: Tensor) -> Tensor:
        limit = torch.where(signed > 0, high, low) / torch.where(matters, signed, torch.ones_like(signed))
        return torch.where(matters, limit, torch.full_like(limit, torch.inf)).amin(1).clamp_min(0).nan_to_num(posinf=0)

    forward, backward = reach(directions), reach(-directions)
    factor = torch.where(forward >= backward, forward, -backward)
    return torch.minimum(torch.maximum(directions * factor.unsqueeze(1), low), high)


def leading_direction(weight: Tensor) -> Tensor:
    """``(1, f)`` the unit vector that most of the rows ``(m, f)`` point along (leading right singular vector)."""
    leading: Tensor = torch.linalg.svd(weight.double(), full_matrices=False).Vh[:1].to(weight)
    return leading
