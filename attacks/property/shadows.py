"""Shadow data and features for property inference: what updates with and without a property look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.models.flat import Layout

DENSE = 4096
"""Tensors of at most so many elements enter coordinate by coordinate too, larger ones by rows and columns only."""

STILL = 0.1
"""Deviation of a feature, relative to its block's, below which it counts as not varying."""

ROUNDING = 1e-5
"""The same relative to the norm of the whole update: float32 and 20-bit fixed-point rounding stay below it."""


@dataclass(frozen=True)
class Pools:
    """Rows of the auxiliary examples by class and property.

    Attributes:
        auxiliary: the public examples.
        cells: per usable class its rows ``(without, with)`` the property; classes that lack either are left out,
            because a class that only one side has would stand in for the property.
        weight: ``(classes,)`` share of the usable auxiliary examples in each class.
    """

    auxiliary: Examples
    cells: tuple[tuple[Tensor, Tensor], ...]
    weight: Tensor

    @classmethod
    def of(cls, auxiliary: Examples, holds: Tensor, known: Tensor, *, by_class: bool) -> Pools:
        """Sort the auxiliary examples.

        Args:
            auxiliary: public examples.
            holds: ``(n,)`` bool, the property.
            known: ``(n,)`` bool, whether it is known.
            by_class: whether labels are classes; else all examples are one class.
        """
        labels = auxiliary.y if by_class else torch.zeros(len(auxiliary), dtype=torch.long)
        cells = []
        for label in sorted(set(labels.tolist())):
            here = (labels == label) & known
            cells.append(((here & ~holds).nonzero().flatten(), (here & holds).nonzero().flatten()))
        usable = tuple(cell for cell in cells if len(cell[0]) and len(cell[1]))
        sizes = torch.tensor([float(len(a) + len(b)) for a, b in usable], dtype=torch.float64)
        return cls(auxiliary, usable, sizes / sizes.sum() if len(usable) else sizes)

    def pair(self, size: int, purity: float, *, generator: torch.Generator) -> tuple[Examples, Examples]:
        """Two shards with the same number of examples of each class: one without the property, one with it.

        A share ``purity`` of each shard is of its own kind. Classes are drawn from the auxiliary distribution, once
        for both, and examples with replacement, so that a small public set can stand in for large clients.
        """
        classes = torch.multinomial(self.weight, size, replacement=True, generator=generator)
        sides = []
        for kind in (0, 1):
            own = torch.rand(size, generator=generator) < purity
            draw = torch.rand(size, generator=generator, dtype=torch.float64)
            rows = torch.empty(size, dtype=torch.long)
            for label, cell in enumerate(self.cells):
                for side in (0, 1):
                    chosen = (classes == label) & (own if side == kind else ~own)
                    rows[chosen] = cell[side][(draw[chosen] * len(cell[side])).long()]
            sides.append(self.auxiliary.take(rows))
        return sides[0], sides[1]


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


def cohorts(
    singles: Tensor, holds: Tensor, size: int, count: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Means of random cohorts of simulated updates, and whether most of their members have the property.

    Args:
        singles: ``(s, d)`` simulated updates.
        holds: ``(s,)`` bool.
        size: updates per cohort.
        count: cohorts of each kind.
        generator: draws the members.

    Returns:
        ``(2 count, d)`` means and ``(2 count,)`` bool; the number of members with the property is uniform within
        each kind, and never half.
    """
    with_rows, without_rows = holds.nonzero().flatten(), (~holds).nonzero().flatten()
    means, truths = [], []
    fewest = size // 2 + 1
    for kind in (False, True):
        for _ in range(count):
            major = int(torch.randint(fewest, size + 1, (), generator=generator))
            having = major if kind else size - major
            drawn = [
                rows[torch.randint(len(rows), (many,), generator=generator)]
                for rows, many in ((with_rows, having), (without_rows, size - having))
            ]
            means.append(singles[torch.cat(drawn)].mean(0))
            truths.append(kind)
    return torch.stack(means), torch.tensor(truths)


def permuted_within(truths: Sequence[bool] | Tensor, *, generator: torch.Generator) -> Tensor:
    """Labels that say nothing: a random half of each kind gets the one label, the rest the other.

    A plain permutation leaves a chance correlation that, where the property is the main direction of the data,
    makes the control a good classifier or a perfectly wrong one; balancing takes that away.
    """
    kinds = torch.as_tensor(truths, dtype=torch.bool)
    labels = torch.zeros_like(kinds)
    for number, kind in enumerate((False, True)):
        rows = (kinds == kind).nonzero().flatten()
        half = (len(rows) + number) // 2
        labels[rows[torch.randperm(len(rows), generator=generator)[:half]]] = True
    return labels
