"""Utility of a model: what it predicts on test examples, how well, and its loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.data.examples import Examples
from fedsec.models.flat import FlatModel


@dataclass(frozen=True, kw_only=True)
class Utility:
    """How good a model is.

    Attributes:
        predictions: ``(n,)`` class or value per test example (``(n, t)`` for next tokens).
        accuracy: share of right classes or tokens; for a regression the coefficient of determination R^2.
        loss: mean loss.
    """

    predictions: Tensor
    accuracy: float
    loss: float


@torch.no_grad()
def evaluate(model: FlatModel, vector: Tensor, examples: Examples, *, batch: int = 1000) -> Utility:
    """Predictions, accuracy and loss of a model ``(d,)`` on examples, in eval mode."""
    module = model.instance(vector)
    dtype = vector.dtype
    # images lie as a CPU convolves and pools them without reordering
    images = examples.x.dim() == 4 and any(isinstance(part, nn.Conv2d) for part in module.modules())
    if images:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    predictions: list[Tensor] = []
    losses: list[Tensor] = []
    for start in range(0, len(examples), batch):
        x, y = examples.x[start : start + batch], examples.y[start : start + batch]
        x = x.to(dtype) if x.is_floating_point() else x
        outputs = module(x.contiguous(memory_format=torch.channels_last) if images else x)
        losses.append(model.loss(outputs, y.to(dtype) if y.is_floating_point() else y))
        regression = model.task == "regression"
        predictions.append(outputs.reshape(y.shape) if regression else outputs.argmax(-1))
    guessed, loss = torch.cat(predictions), torch.cat(losses)
    if model.task == "regression":
        spread = (examples.y - examples.y.mean()).square().sum()
        accuracy = float(1.0 - (guessed - examples.y).square().sum() / spread)
    else:
        accuracy = float((guessed == examples.y).double().mean())
    return Utility(predictions=guessed, accuracy=accuracy, loss=float(loss.double().mean()))


def hits(model: FlatModel, vector: Tensor, probe: Examples | None) -> Tensor | None:
    """Whether a model ``(d,)`` gives each example of a probe the label that it has there, ``(m,)`` bool."""
    if probe is None:
        return None
    right = evaluate(model, vector, probe).predictions == probe.y
    return right.reshape(len(probe), -1).all(dim=1)
