"""Batch norm under attack: whose statistics normalise a dummy batch, and what an update says of the victim's.

A client trains in train mode: each layer normalises by the statistics of the client's own batch, and the running
statistics move towards them. Three threat models (the parameter ``batch_norm``):

``private``
    Nothing is known of the batch's statistics; a dummy batch is normalised by its own, as the client's was.
``shared``
    The update's buffers are read: after one local step ``running' - running = momentum (batch - running)``, so the
    statistics of the victim's batch are known exactly. Dummy batches are normalised by their own and drawn to these.
``public``
    Dummy batches are normalised by the running statistics that were broadcast (eval mode), as most published attacks
    do; a client in train mode did something else, and the objective is not zero at the truth.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fedsec.models.flat import FlatModel
from fedsec.protocol.outcome import NotApplicable

BatchNorm = Literal["private", "shared", "public"]
Statistics = tuple[tuple[Tensor, Tensor], ...]
"""Mean and unbiased variance per channel of what each batch-norm layer reads, ``(k, c)`` each, in module order."""

_Layer = nn.modules.batchnorm._BatchNorm


def layers(module: nn.Module) -> list[tuple[str, _Layer]]:
    """The batch-norm layers by name, in module order."""
    return [(name, part) for name, part in module.named_modules() if isinstance(part, _Layer)]


def prepare(module: nn.Module, mode: BatchNorm) -> None:
    """Set the layers of a module in eval mode up for `mode`; no pass moves running statistics afterwards."""
    for _, layer in layers(module):
        layer.eval()
        if mode != "public":
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None


class Watch:
    """Collects what the batch-norm layers of one module read during one forward pass."""

    def __init__(self, module: nn.Module) -> None:
        """Args: module: gets one hook per layer."""
        self._read: list[tuple[Tensor, Tensor]] = []
        for _, layer in layers(module):
            layer.register_forward_pre_hook(lambda _, args: self._read.append(moments(args[0])))

    def take(self) -> Statistics:
        """What was read since the last call."""
        read, self._read = tuple(self._read), []
        return read


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance ``(c,)`` of ``(b, c, *)`` over all but the channels."""
    flat = x.transpose(0, 1).flatten(1)
    return flat.mean(1), flat.var(1)


def broadcast_statistics(model: FlatModel, states: Tensor) -> Statistics:
    """The running statistics in ``(k, d)`` models."""
    tensors = model.layout.split(states)
    found = layers(model.module)
    return tuple((tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]) for name, _ in found)


def batch_statistics(model: FlatModel, states: Tensor, moved: Tensor) -> Statistics:
    """The statistics of the batches of one local step, from how the running ones moved.

    Args:
        model: the architecture.
        states: ``(k, d)`` global models.
        moved: ``(k, d - p)`` the updates' float buffers, local minus global.

    Raises:
        NotApplicable: a layer keeps no running statistics, or a cumulative average of them.
    """
    before = broadcast_statistics(model, states)
    after = broadcast_statistics(model, torch.cat([states[:, : model.layout.trainable], moved], 1))
    read = []
    for (name, layer), (mean, var), (mean_step, var_step) in zip(layers(model.module), before, after, strict=True):
        if not layer.momentum:
            raise NotApplicable(f"layer {name} averages its statistics over all steps; one step does not show in them")
        read.append((mean + mean_step / layer.momentum, var + var_step / layer.momentum))
    return tuple(read)


def statistics_distance(found: Statistics, wanted: Statistics) -> Tensor:
    """Mean over layers of ``|mean - mean'|^2 + |var - var'|^2`` relative to the wanted variances, ``(k,)``.

    Yin et al. 2021, eq. 9 and 10, take norms of the differences; squares are smooth at zero, and dividing by the
    variances makes layers of different scale count alike.
    """
    terms = []
    for (mean, var), (mean_wanted, var_wanted) in zip(found, wanted, strict=True):
        scale = var_wanted.abs().mean(1).clamp_min(1e-12)
        terms.append(
            (mean - mean_wanted).square().mean(1) / scale + (var - var_wanted).square().mean(1) / scale.square()
        )
    return torch.stack(terms).mean(0)
