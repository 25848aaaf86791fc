"""What defenses left to match of an update, read off the update itself and the public stack.

Clipping by value leaves saturated coordinates, clipping layer by layer equal norms. Sparsification (top-k, pruning)
leaves a gap between zero and the smallest coordinate sent: what survived is matched, and the rest was smaller than it.
Quantisation to signs leaves one magnitude per layer: signs are matched. The last two are looked for only where the
stack is not empty; a bare update has its zeros from the model (dead ReLUs).
"""

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
GAP = 0.02
"""Share of the median magnitude below which a dense update has coordinates and a sparsified one has none."""
LEAST_SENT = 8
"""Non-zero coordinates without which a gap says nothing."""
UNKNOWN = 1e30
"""The magnitude below which a coordinate that was not read may lie: any."""
SOFT_SIGN = 0.25
"""Magnitude, in means of the layer, at which a dummy coordinate counts as ``tanh(1)`` of a sign."""


@dataclass(frozen=True)
class Observation:
    """A map to apply to dummy gradients and targets alike, before they are compared.

    Attributes:
        targets: ``(l, p)`` gradients as they were seen.
        cut: ``(l, p)`` bool, coordinates that were cut off: the true one lies beyond, on the same side.
        rescaled: ``(l,)`` bool, lanes whose layers were scaled one by one.
        spans: coordinates of each layer.
        least: ``(l, p)``, for coordinates that were not sent the magnitude that others had to have, else 0; ``None``
            if all were sent.
        signs: ``(l,)`` bool, lanes of which only signs were sent; ``None`` if no lane.
    """

    targets: Tensor
    cut: Tensor
    rescaled: Tensor
    spans: tuple[slice, ...]
    least: Tensor | None = None
    signs: Tensor | None = None

    def of(self, lanes: Tensor) -> Observation:
        """The observation of some lanes, ``(k,)`` int64; what concerns none of them is left out."""
        least = None if self.least is None else self.least[lanes]
        signs = None if self.signs is None else self.signs[lanes]
        return replace(
            self,
            targets=self.targets[lanes],
            cut=self.cut[lanes],
            rescaled=self.rescaled[lanes],
            least=least if least is not None and bool(least.any()) else None,
            signs=signs if signs is not None and bool(signs.any()) else None,
        )

    def __call__(self, gradients: Tensor) -> Tensor:
        """``(l, p)`` to ``(l, p)``.

        Where the target was not sent, what exceeds the magnitude that was; cut where the target was; soft signs where
        only signs were sent, relative to the layer's mean magnitude; where layers were rescaled, each at unit norm.
        """
        if self.least is not None:
            gradients = self._beyond_sent(gradients, self.least)
        if self.signs is not None:
            gradients = torch.where(self.signs.unsqueeze(1), self._soft_signs(gradients), gradients)
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

    def _beyond_sent(self, gradients: Tensor, least: Tensor) -> Tensor:
        dropped = least > 0
        # Thresholds are in units of the target; what was sent says how dummy gradients are to be scaled to it.
        sent = gradients.masked_fill(dropped, 0.0).norm(dim=1) / self.targets.norm(dim=1).clamp_min(1e-30)
        within = least * sent.unsqueeze(1)
        return torch.where(dropped, gradients - torch.minimum(torch.maximum(gradients, -within), within), gradients)

    def _soft_signs(self, gradients: Tensor) -> Tensor:
        parts = []
        for span in self.spans:
            layer = gradients[:, span]
            size = layer.abs()
            mean = size.sum(1, keepdim=True) / (size > 0).sum(1, keepdim=True).clamp_min(1)
            parts.append((layer / (SOFT_SIGN * mean + 1e-30)).tanh())
        return torch.cat(parts, 1)


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


def only_signs(updates: Tensor, spans: Sequence[slice]) -> Tensor:
    """Whether all non-zero coordinates of every layer have one magnitude, and some layer has several; ``(l,)`` bool."""
    flat = torch.ones(len(updates), dtype=torch.bool, device=updates.device)
    several = ~flat
    for span in spans:
        size = updates[:, span].abs()
        sent = size > 0
        least = torch.where(sent, size, torch.inf).amin(1)
        flat &= (size.amax(1) <= least * (1 + 1e-4)) | ~sent.any(1)
        several |= sent.sum(1) >= LEAST_SENT
    return flat & several


def not_sent(updates: Tensor, spans: Sequence[slice]) -> Tensor:
    """The smallest magnitude sent, at coordinates that were not sent; 0 at all others; ``(l, p)``.

    The magnitudes of a dense gradient reach down to zero; those of a sparsified one end at its threshold. Zeros of
    layers, or of the whole, whose smallest other magnitude stands well off zero are taken as not sent. Works for
    thresholds over the whole update and layer by layer.
    """

    def threshold(part: Tensor) -> Tensor:
        size = part.abs()
        sent = size > 0
        least = torch.where(sent, size, torch.inf).amin(1)
        median = torch.where(sent, size, torch.nan).nanmedian(1).values
        gap = (sent.sum(1) >= LEAST_SENT) & (least > GAP * median)
        return torch.where(gap, least, 0.0).unsqueeze(1)

    whole = threshold(updates).expand_as(updates)
    each = torch.cat([threshold(updates[:, span]).expand(-1, span.stop - span.start) for span in spans], 1)
    return torch.where(whole > 0, whole, each).masked_fill(updates != 0, 0.0)


def observe(
    updates: Tensor,
    targets: Tensor,
    spans: Sequence[slice],
    *,
    stack: Sequence[str] = (),
    rounds: int = 1,
    read: Tensor | None = None,
) -> Observation:
    """What can be matched of each update.

    Args:
        updates: ``(l, o * p)`` as they were seen, ``o`` rounds side by side.
        targets: ``(l, o * p)`` the gradients made of them.
        spans: coordinates of each layer, which cover ``p`` in order.
        stack: the public stack of defenses.
        rounds: ``o``.
        read: ``(l, o * p)`` bool, coordinates that were read; at the others anything may have been sent, and nothing
            is matched. ``None``: all were.
    """
    size = updates.shape[1] // rounds
    each = updates.reshape(-1, size)
    all_spans = tuple(slice(i * size + s.start, i * size + s.stop) for i in range(rounds) for s in spans)
    least, signs = None, None
    if stack:
        signs = only_signs(each, spans).view(-1, rounds).all(1)
        # In units of the targets; a vector of signs has no magnitudes, and its zeros are matched as zeros.
        unit = (targets.norm(dim=1) / updates.norm(dim=1).clamp_min(1e-30)).masked_fill(signs, 0.0)
        least = not_sent(each, spans).reshape(len(updates), -1) * unit.unsqueeze(1)
    if read is not None and not bool(read.all()):
        least = torch.where(read, 0.0 if least is None else least, UNKNOWN)
    cut = saturated(each).reshape(len(updates), -1)
    rescaled = layers_rescaled(each, spans).view(-1, rounds).any(1)
    if signs is not None:
        cut, rescaled = cut & ~signs.unsqueeze(1), rescaled & ~signs
    return Observation(targets, cut, rescaled, all_spans, least, signs)


def sign_agreement(soft: Tensor, signs: Tensor) -> Tensor:
    """Share of the weight of soft signs that points the other way, ``(l,)`` in [0, 1]: 0 where all signs agree.

    ``(1 - sum t s / sum |s|) / 2``. Coordinates without a gradient have no sign of their own, however a code writes
    zero, and no weight. Blind to the scale of the gradient.

    Args:
        soft: ``(l, p)`` soft signs of dummy gradients.
        signs: ``(l, p)`` signs that were seen, up to a positive factor.
    """
    weight = soft.abs().sum(1).clamp_min(1e-30)
    return 0.5 * (1 - (signs.sign() * soft).sum(1) / weight)


def noise_ratio(updates: Tensor, deviation: Tensor) -> Tensor:
    """Power of the noise over that of the signal in each update, ``(l,)``, at most 100.

    Args:
        updates: ``(l, p)``.
        deviation: ``(l,)`` of the noise in each coordinate, from the public stack.
    """
    power = updates.square().sum(1)
    noise: Tensor = deviation.square() * updates.shape[1]
    return (noise / (power - noise).clamp_min(0.01 * noise)).nan_to_num().clamp(0, 100)


def spread(updates: Tensor) -> Tensor:
    """The deviation of a normal distribution with each update's median magnitude, ``(l,)``.

    At least that of white noise in the update, and little of a gradient, most of whose coordinates are small.
    """
    return updates.abs().median(1).values / 0.6745
