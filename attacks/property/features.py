"""What a classifier reads of updates."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsec.models.flat import Layout

DENSE = 4096
"""Tensors of at most so many elements enter coordinate by coordinate too, larger ones by rows and columns only."""

STILL = 0.1
"""Deviation of a feature, relative to its block's, below which it counts as not varying."""

ROUNDING = 1e-5
"""The same relative to the norm of the whole update: float32 and 20-bit fixed-point rounding stay below it."""

MELIS_KERNELS = 5000
"""Convolutions of more kernels than this are not read by the features of Melis et al."""

MELIS_DENSE = 5000
"""Dense layers of more weights than this enter by the largest magnitude of each row."""


def features(updates: Tensor, layout: Layout) -> tuple[Tensor, tuple[int, ...]]:
    """What a classifier reads of updates: how long each tensor's change is, and where in the tensor it lies.

    The first block holds the logarithms of the norms of the update and of each tensor relative to it. Each tensor is
    divided by the norm of the whole update, so that step sizes and clipping do not matter, and enters with its
    rows' and columns' lengths and its columns' sums (a convolution's kernel is reduced to its largest magnitude
    first, as in the code of Melis et al.), and, if it is small, coordinate by coordinate. Coordinates keep their
    signs, which say what inputs were like and which the magnitudes of Melis et al. lose.

    Args:
        updates: ``(n, d)``; float buffers beyond the trainable coordinates are not read.
        layout: of the model.

    Returns:
        ``(n, f)`` float64, block after block, and the widths of the blocks.
    """
    trainable = updates[:, : layout.trainable].double()
    norms = trainable.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    lengths, blocks = [norms.log()], []
    for slot in layout.parameters:
        flat = trainable[:, slot.start : slot.stop] / norms
        lengths.append(flat.norm(dim=1, keepdim=True).clamp_min(1e-12).log())
        if flat.shape[1] <= DENSE:
            blocks.append(flat)
        if len(slot.shape) > 1:
            tensor = flat.reshape(-1, *slot.shape)
            matrix = tensor if tensor.dim() == 3 else tensor.flatten(3).abs().amax(-1)
            blocks += [matrix.norm(dim=1), matrix.norm(dim=2), matrix.sum(1)]
    blocks.insert(0, torch.cat(lengths, dim=1))
    return torch.cat(blocks, dim=1), tuple(block.shape[1] for block in blocks)


def standardise(known: Tensor, observed: Tensor, widths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Centre and scale features by the simulated updates alone.

    A feature that hardly varies in the simulation has no scale of its own: rounding on the wire (encryption,
    compression), which is not simulated, would make it enormous. Its deviation is taken to be at least `STILL`
    times the root mean square of its block's, and at least `ROUNDING` where a whole block is still (the column sums of
    a softmax layer are zero but for rounding). Each block of ``w`` features is then divided by the root of ``w``, so
    that a few telling numbers do not drown in thousands of coordinates.

    Args:
        known: ``(n, f)`` features of simulated updates.
        observed: ``(k, f)`` features of observed updates.
        widths: of the blocks.

    Returns:
        Both, standardised.
    """
    centre, deviation = known.mean(0), known.std(0, correction=0)
    scales = []
    for block in torch.split(deviation, list(widths)):
        common = block.square().mean().sqrt()
        scales.append(block.clamp_min(max(ROUNDING, float(STILL * common))) * len(block) ** 0.5)
    scale = torch.cat(scales)
    return (known - centre) / scale, (observed - centre) / scale


def melis_features(updates: Tensor, layout: Layout) -> Tensor:
    """The features of Melis et al. (their published code): magnitudes of what is not a bias, at unit length.

    One-dimensional gradients are dropped, a convolution is reduced to the largest magnitude of each kernel (and
    dropped if it has more than `MELIS_KERNELS` kernels), a dense layer of more than `MELIS_DENSE` weights to the
    largest magnitude of each row.

    Args:
        updates: ``(n, d)``.
        layout: of the model.

    Returns:
        ``(n, f)`` float64, rows of length 1 (or 0).
    """
    parts = []
    for slot in layout.parameters:
        if len(slot.shape) < 2:
            continue
        tensor = updates[:, slot.start : slot.stop].double().abs().reshape(-1, *slot.shape)
        if len(slot.shape) > 2:
            if slot.shape[0] * slot.shape[1] <= MELIS_KERNELS:
                parts.append(tensor.flatten(3).amax(-1).flatten(1))
        else:
            parts.append(tensor.amax(2) if tensor[0].numel() > MELIS_DENSE else tensor.flatten(1))
    if not parts:
        return updates.new_zeros(len(updates), 0, dtype=torch.float64)
    whole = torch.cat(parts, dim=1)
    length: Tensor = whole.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return whole / length


def scale_columns(known: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and scale each feature by the simulated updates alone; one that does not vary there is only centred."""
    centre, deviation = known.mean(0), known.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    return (known - centre) / scale, (observed - centre) / scale
