"""What clipping left to match: some coordinates saturated, some layers rescaled; read off the update itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LEAST_SATURATED = 3
"""Coordinates that must share the largest magnitude to count as cut off; two may do so by chance or symmetry."""
MOST_SATURATED = 0.9
"""Share of the non-zero coordinates above which the update is a sign vector, and its signs are all there is."""
SAME_NORM = 1e-4
"""Relative difference up to which two layers count as scaled to one norm."""


@dataclass(frozen=True)
class Observation:
    """A map to apply to dummy gradients and targets alike, before they are compared.

    Attributes:
        targets: ``(l, p)`` gradients as they were seen.
        cut: ``(l, p)`` bool, coordinates that were cut off: the true one lies beyond, on the same side.
        rescaled: ``(l,)`` bool, lanes whose layers were scaled one by one.
        spans: coordinates of each layer.
    """

    targets: Tensor
    cut: Tensor
    rescaled: Tensor
    spans: tuple[slice, ...]

    def of(self, lanes: Tensor) -> Observation:
        """The observation of some lanes, ``(k,)`` int64."""
        return replace(self, targets=self.targets[lanes], cut=self.cut[lanes], rescaled=self.rescaled[lanes])

    def __call__(self, gradients: Tensor) -> Tensor:
        """``(l, p)`` to ``(l, p)``: cut where the target was; where layers were rescaled, each at unit norm."""
        if bool(self.cut.any()):
            side = self.targets.sign()
            within = side * torch.minimum(side * gradients, self.targets.abs())
            gradients = torch.where(self.cut, within, gradients)
        if not bool(self.rescaled.any()):
            return gradients
        units = []
        for span in self.spans:
            layer = gradients[:, span]
            units.append(layer / (layer.square().sum(1, keepdim=True) + 1e-30).sqrt())
        return torch.where(self.rescaled.unsqueeze(1), torch.cat(units, 1), gradients)


def saturated(updates: Tensor) -> Tensor:
    """Coordinates that clipping by value cut off: those that share the largest magnitude; ``(l, p)`` bool."""
    size = updates.abs()
    most = size.amax(1, keepdim=True)
    cut = (size >= most * (1 - 1e-6)) & (most > 0)
    count = cut.sum(1)
    real = (count >= LEAST_SATURATED) & (count < MOST_SATURATED * (size > 0).sum(1))
    return cut & real.unsqueeze(1)


def layers_rescaled(updates: Tensor, spans: Sequence[slice]) -> Tensor:
    """Whether two layers have one norm, as clipping layer by layer leaves them; ``(l,)`` bool."""
    norms = torch.stack([updates[:, span].double().square().sum(1).sqrt() for span in spans], 1)
    ordered = norms.sort(1).values
    if ordered.shape[1] < 2:
        return torch.zeros(len(updates), dtype=torch.bool, device=updates.device)
    same: Tensor = ((ordered[:, 1:] - ordered[:, :-1]) <= SAME_NORM * ordered[:, 1:]) & (ordered[:, :-1] > 0)
    return same.any(1)


def observe(updates: Tensor, targets: Tensor, spans: Sequence[slice]) -> Observation:
    """What can be matched of each update.

    Args:
        updates: ``(l, p)`` as they were seen.
        targets: ``(l, p)`` the gradients made of them.
        spans: coordinates of each layer, which cover ``p`` in order.
    """
    return Observation(targets, saturated(updates), layers_rescaled(updates, spans), tuple(spans))
