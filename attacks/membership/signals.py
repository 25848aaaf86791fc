"""What updates say about examples: cosines with their gradients, and how well the sender's own model fits them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fedsec.data.examples import Examples
from fedsec.membership import confidences
from fedsec.models.flat import FlatModel

_CHUNK = 64
"""Examples whose gradients are held at once; larger chunks are no faster on a CPU."""


def gradient_cosines(model: FlatModel, vector: Tensor, examples: Examples, updates: Tensor) -> Tensor:
    """Cosines of what one step on each example alone would change with what each update changed.

    Args:
        model: the architecture, evaluated in eval mode.
        vector: ``(d,)`` the model that the updates started from.
        examples: ``n``.
        updates: ``(k, d)`` changes of the model (not gradients: the sign is that of a step).

    Returns:
        ``(k, n)`` float64; 0 where an example has no gradient or an update no length, or one that is no number.
    """
    net = model.instance(vector)
    weights = {name: value.detach() for name, value in net.named_parameters()}
    buffers = {name: value.detach() for name, value in net.named_buffers()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return model.loss(functional_call(net, (parameters, buffers), (x.unsqueeze(0),)), y.unsqueeze(0)).sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="same")
    names = [slot.name for slot in model.layout.parameters]
    changes = updates[:, : model.layout.trainable].to(vector)
    changes = changes / changes.norm(dim=1, keepdim=True)
    parts = []
    for start in range(0, len(examples), _CHUNK):
        some = examples.take(range(start, min(start + _CHUNK, len(examples))))
        x = some.x.to(vector) if some.x.is_floating_point() else some.x.to(vector.device)
        y = some.y.to(vector) if some.y.is_floating_point() else some.y.to(vector.device)
        tensors = each(weights, x, y)
        gradients = torch.cat([tensors[name].flatten(1) for name in names], dim=1)
        parts.append(changes @ -(gradients / gradients.norm(dim=1, keepdim=True)).T)
    return torch.nan_to_num(torch.cat(parts, dim=1).double(), nan=0.0, posinf=0.0, neginf=0.0)


def local_confidences(model: FlatModel, vector: Tensor, examples: Examples, updates: Tensor) -> Tensor:
    """Logit-scaled confidence of each sender's own model (global plus update) in each example, ``(k, n)`` float64."""
    return torch.stack([confidences(model, vector + update.to(vector), examples) for update in updates])
