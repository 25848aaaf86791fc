"""What defenses left to match of an update, read off the update itself and the public stack.

Clipping by value leaves saturated coordinates, clipping layer by layer equal norms. Sparsification (top-k, pruning)
leaves a gap between zero and the smallest coordinate sent: only what survived is matched. Quantisation to signs leaves
one magnitude per layer: signs are matched. The last two are looked for only where the stack is not empty, for a bare
update has its zeros from the model (dead ReLUs), and they say something.
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
SOFT_SIGN = 0.5
"""Magnitude, in means of the layer, at which a dummy coordinate counts as ``tanh(1)`` of a sign."""


@dataclass(frozen=True)
class Observation:
    """A map to apply to dummy gradients and targets alike, before they are compared.

    Attributes:
        targets: ``(l, p)`` gradients as they were seen.
        cut: ``(l, p)`` bool, coordinates that were cut off: the true one lies beyond, on the same side.
        rescaled: ``(l,)`` bool, lanes whose layers were scaled one by one.
        spans: coordinates of each layer.
        dropped: ``(l, p)`` bool, coordinates that were not sent; ``None`` if all were.
        signs: ``(l,)`` bool, lanes of which only signs were sent; ``None`` if no lane.
    """

    targets: Tensor
    cut: Tensor
    rescaled: Tensor
    spans: tuple[slice, ...]
    dropped: Tensor | None = None
    signs: Tensor | None = None

    def of(self, lanes: Tensor) -> Observation:
        """The observation of some lanes, ``(k,)`` int64; what concerns none of them is left out."""
        dropped = None if self.dropped is None else self.dropped[lanes]
        signs = None if self.signs is None else self.signs[lanes]
        return replace(
            self,
            targets=self.targets[lanes],
            cut=self.cut[lanes],
            rescaled=self.rescaled[lanes],
            dropped=dropped if dropped is not None and bool(dropped.any()) else None,
            signs=signs if signs is not None and bool(signs.any()) else None,
        )

    def __call__(self, gradients: Tensor) -> Tensor:
        """``(l, p)`` to ``(l, p)``.

        Zero where the target was not sent; cut where the target was; soft signs where only signs were sent, relative
        to the mean magnitude of the layer; where layers were rescaled, each at unit norm.
        """
        if self.dropped is not None:
            gradients = gradients.masked_fill(self.dropped, 0.0)
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
    """Zeros of layers, or of the whole, whose smallest other magnitude stands well off zero; ``(l, p)`` bool.

    The magnitudes of a dense gradient reach down to zero; those of a sparsified one end at its threshold. Works for
    thresholds over the whole update and layer by layer, alone or before quantisation.
    """
    zero = updates == 0

    def gap(part: Tensor) -> Tensor:
        size = part.abs()
        sent = size > 0
        some = torch.where(sent, size, torch.nan)
        least = torch.where(sent, size, torch.inf).amin(1)
        return (sent.sum(1) >= LEAST_SENT) & (least > GAP * some.nanmedian(1).values)

    dropped = zero & gap(updates).unsqueeze(1)
    for span in spans:
        dropped[:, span] |= zero[:, span] & gap(updates[:, span]).unsqueeze(1)
    return dropped


def observe(
    updates: Tensor, targets: Tensor, spans: Sequence[slice], *, stack: Sequence[str] = (), rounds: int = 1
) -> Observation:
    """What can be matched of each update.

    Args:
        updates: ``(l, o * p)`` as they were seen, ``o`` rounds side by side.
        targets: ``(l, o * p)`` the gradients made of them.
        spans: coordinates of each layer, which cover ``p`` in order.
        stack: the public stack of defenses.
        rounds: ``o``.
    """
    size = updates.shape[1] // rounds
    each = updates.reshape(-1, size)
    all_spans = tuple(slice(i * size + s.start, i * size + s.stop) for i in range(rounds) for s in spans)
    dropped, signs = None, None
    if stack:
        dropped = not_sent(each, spans).reshape(len(updates), -1)
        signs = only_signs(each, spans).view(-1, rounds).all(1)
        dropped = dropped if bool(dropped.any()) else None
        signs = signs if bool(signs.any()) else None
    cut = saturated(each).reshape(len(updates), -1)
    rescaled = layers_rescaled(each, spans).view(-1, rounds).any(1)
    if signs is not None:
        cut, rescaled = cut & ~signs.unsqueeze(1), rescaled & ~signs
    return Observation(targets, cut, rescaled, all_spans, dropped, signs)


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
