"""The signals that membership inference and its floor share: how well a model fits an example."""

from __future__ import annotations

from collections.abc import Iterator

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
    lowest = torch.finfo(torch.float64).min
    parts = [-model.loss(outputs, y) for outputs, y in _outputs(model, vector, examples)]
    return torch.nan_to_num(torch.cat(parts), nan=lowest)


def confidences(model: FlatModel, vector: Tensor, examples: Examples) -> Tensor:
    """Logit-scaled confidence in the true label, computed in float64: ``(n,)``.

    ``log p_y - log sum_{j != y} p_j`` straight from the logits (Carlini et al. 2022, section IV-C):
    over the randomness of training it is about Gaussian, which minus the loss is not. For next tokens it is the mean
    over the sequence; a regression has no classes, and minus the loss (a Gaussian's log-likelihood) takes its place.
    Values that are not finite become the largest or lowest that are usual, ``+-1e4``.

    Args:
        model: the architecture.
        vector: ``(d,)`` its state, evaluated in eval mode.
        examples: inputs with their true labels.
    """
    if model.task == "regression":
        return loss_scores(model, vector, examples).clamp_min(-1e4)
    parts = []
    for logits, y in _outputs(model, vector, examples):
        label = y.unsqueeze(-1)
        others = logits.scatter(-1, label, -torch.inf).logsumexp(-1)
        margin = logits.gather(-1, label).squeeze(-1) - others
        parts.append(margin.flatten(1).mean(1) if margin.dim() > 1 else margin)
    return torch.nan_to_num(torch.cat(parts), nan=-1e4, posinf=1e4, neginf=-1e4).clamp(-1e4, 1e4)


@torch.no_grad()
def _outputs(model: FlatModel, vector: Tensor, examples: Examples) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets in float64, batch by batch."""
    net = model.instance(vector.double())
    for x, y in zip(torch.split(examples.x, _BATCH), torch.split(examples.y, _BATCH), strict=True):
        inputs = (x.double() if x.is_floating_point() else x).to(vector.device)
        targets = (y.double() if y.is_floating_point() else y).to(vector.device)
        yield net(inputs), targets
