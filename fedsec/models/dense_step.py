"""One SGD step of many dense models at once, with the update folded into the weight-gradient product.

The gradient never exists as a tensor: ``W <- W - rate dZ^T H`` is one in-place ``baddbmm``. This saves a pass over
the weights per step, which is what small dense models spend their time on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.models.dense_plan import Apply, Drop, Flatten, Linear, Plan
from fedsec.models.flat import FlatModel

TASKS = frozenset({"classification", "regression"})
"""Tasks whose loss gradient is written out here."""


def folded_sgd_step(
    model: FlatModel,
    plan: Plan,
    tensors: tuple[Tensor, ...],
    x: Tensor,
    y: Tensor,
    *,
    keys: Tensor,
    rate: float,
    weight_decay: float = 0.0,
    proximal: float = 0.0,
    start: tuple[Tensor, ...] = (),
) -> None:
    """Move ``tensors`` by one step of plain SGD on the mean loss of each lane's batch, in place.

    Args:
        model: says the task (`TASKS`).
        plan: what the model does (`fedsec.models.dense_plan`).
        tensors: ``(l, *shape)`` per parameter, without gradients.
        x: ``(l, b, *input_shape)``.
        y: ``(l, b)``.
        keys: ``(l,)`` int64, for dropout.
        rate: learning rate.
        weight_decay: L2 penalty added to the gradient.
        proximal: FedProx's mu.
        start: the global model's tensors ``(*shape)``, needed with ``proximal``.
    """
    inputs, outputs = _forward(plan, tensors, x, keys)
    error = _loss_gradient(model.task, outputs, y)
    scale = rate / x.shape[1]
    keep = 1.0 - rate * (weight_decay + proximal)
    first = next(i for i, op in enumerate(plan) if isinstance(op, Linear))
    for place in range(len(plan) - 1, first - 1, -1):
        op, given = plan[place], inputs[place]
        match op:
            case Linear(weight, bias):
                below = torch.bmm(error, tensors[weight]) if place > first else error
                tensors[weight].baddbmm_(error.mT, given, beta=keep, alpha=-scale)
                if bias is not None:
                    tensors[bias].mul_(keep).add_(error.sum(1), alpha=-scale)
                if proximal:
                    for index in (weight,) if bias is None else (weight, bias):
                        tensors[index].add_(start[index], alpha=rate * proximal)
                error = below
            case Apply(_, "relu"):
                error = torch.ops.aten.threshold_backward(error, given, 0)
            case Apply(_, "sigmoid"):
                error = torch.ops.aten.sigmoid_backward(error, given)
            case Apply(_, "tanh"):
                error = torch.ops.aten.tanh_backward(error, given)
            case Drop():
                error = error * given


def _forward(plan: Plan, tensors: tuple[Tensor, ...], x: Tensor, keys: Tensor) -> tuple[list[Tensor], Tensor]:
    """What each operation's backward pass needs (input, output or mask), and the outputs."""
    saved: list[Tensor] = []
    for op in plan:
        match op:
            case Flatten():
                x = x.flatten(2)
                saved.append(x)
            case Linear(weight, bias):
                saved.append(x)
                product = tensors[weight].mT
                x = torch.bmm(x, product) if bias is None else torch.baddbmm(tensors[bias].unsqueeze(1), x, product)
            case Apply(function):
                x = function(x)
                saved.append(x)
            case Drop():
                mask = op.mask(keys, x)
                x = x * mask
                saved.append(mask)
    return saved, x


def _loss_gradient(task: str, outputs: Tensor, y: Tensor) -> Tensor:
    """Gradient of each example's loss in its outputs, ``(l, b, c)``."""
    if task == "regression":
        return outputs - y.reshape(outputs.shape)
    error = torch.softmax(outputs, -1)
    return error.scatter_add_(-1, y.unsqueeze(-1), torch.full_like(y, -1, dtype=error.dtype).unsqueeze(-1))
