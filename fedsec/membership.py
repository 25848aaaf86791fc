"""The score that membership inference and its floor share: minus the loss of an example on a model."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.models.flat import FlatModel

_BATCH = 256


def loss_scores(model: FlatModel, vector: Tensor, examples: Examples) -> Tensor:
    """Minus the loss of each example, computed in float64: ``(n,)``.

    In float32 the cross-entropy of a confident model is exactly 0 for many examples, and ties hide members at low
    false positive rates. A loss that is not a number scores lowest.

    Args:
        model: the architecture.
        vector: ``(d,)`` its state, evaluated in eval mode.
        examples: inputs with their true labels.
    """
    net = model.instance(vector.double())
    parts = []
    with torch.no_grad():
        for x, y in zip(torch.split(examples.x, _BATCH), torch.split(examples.y, _BATCH), strict=True):
            inputs = (x.double() if x.is_floating_point() else x).to(vector.device)
            targets = (y.double() if y.is_floating_point() else y).to(vector.device)
            parts.append(model.loss(net(inputs), targets))
    lowest = torch.finfo(torch.float64).min
    return torch.nan_to_num(-torch.cat(parts), nan=lowest)
