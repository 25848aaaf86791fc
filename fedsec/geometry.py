"""The geometry of a round: distances, norms, inner products and sorted coordinates of an ``(n, d)`` matrix.

Shared by robust rules, detectors and the poisoning attacks that adapt to them. Two things decide whether
distances between nearly equal rows are right:

- ``|a|^2 + |b|^2 - 2 a.b`` on raw rows cancels (in fp32, 9 % error for updates that are 0.3 % apart), so rows
  are centred first, and products are formed and summed in fp64, one chunk of coordinates at a time.
- A finite but huge row moves the mean so far that centring on it destroys the distances between all others.
  Rows are centred on the coordinate-wise median, which fewer than half of the rows cannot move.

Peak memory beside the input is ``O(n * CHUNK)``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1 << 14
"""Coordinates per chunk: an fp64 chunk of 50 rows is 6.5 MB, about a core's share of the cache."""


def check_rows(rows: Tensor, *, least: int = 1) -> None:
    """Refuse what no rule can read.

    Args:
        rows: should be ``(n, d)``, floating point, finite, ``n >= least``, ``d >= 1``.
        least: rows needed.

    Raises:
        ValueError: says which of these does not hold.
    """
    if rows.ndim != 2 or not rows.is_floating_point() or rows.shape[1] < 1:
        raise ValueError(f"expected a float matrix (n, d) with d >= 1, got {rows.dtype} {tuple(rows.shape)}")
    if rows.shape[0] < least:
        raise ValueError(f"needs n >= {least} rows, got n = {rows.shape[0]}")
    bad = (~finite_rows(rows)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"rows {bad} hold NaN or infinity; drop them first")


def finite_rows(rows: Tensor) -> Tensor:
    """Which rows hold neither NaN nor infinity: ``(n, d)`` to ``(n,)`` bool."""
    return torch.isfinite(rows).all(dim=1)


def spans(length: int) -> Iterator[slice]:
    """Consecutive chunks of coordinates that cover ``range(length)``."""
    for start in range(0, length, CHUNK):
        yield slice(start, min(start + CHUNK, length))


def sorted_coordinates(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Each chunk of coordinates with its values sorted over the rows, ``(chunk, n)`` ascending.

    On a CPU numpy sorts rows of contiguous fp32 with vector instructions, several times faster than
    ``torch.sort`` or ``torch.topk`` on the same data.
    """
    for span in spans(rows.shape[1]):
        block = rows[:, span].detach().t().clone(memory_format=torch.contiguous_format)
        if block.device.type == "cpu":
            block.numpy().sort(axis=1)
            yield span, block
        else:
            yield span, block.sort(dim=1).values


def coordinate_median(rows: Tensor) -> Tensor:
    """Median of each coordinate, ``(n, d)`` to ``(d,)``; the mean of the two middle values for even ``n``."""
    low, high = (rows.shape[0] - 1) // 2, rows.shape[0] // 2
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    for span, ordered in sorted_coordinates(rows):
        # halves before the sum: two large values of one sign must not overflow
        result[span] = ordered[:, low] * 0.5 + ordered[:, high] * 0.5
    return result


def trimmed_mean(rows: Tensor, trim: int) -> Tensor:
    """Mean of each coordinate without its ``trim`` lowest and ``trim`` highest values, ``(n, d)`` to ``(d,)``."""
    n = rows.shape[0]
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    for span, ordered in sorted_coordinates(rows):
        result[span] = ordered[:, trim : n - trim].double().mean(dim=1).to(rows.dtype)
    return result


def combine(rows: Tensor, coefficients: Tensor) -> Tensor:
    """``sum_i c_i x_i`` with fp64 products and sums: ``(n, d)`` and ``(n,)`` to ``(d,)``."""
    weights = coefficients.to(device=rows.device, dtype=torch.float64)
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    for span in spans(rows.shape[1]):
        result[span] = (weights @ rows[:, span].double()).to(rows.dtype)
    return result


def combine_many(rows: Tensor, coefficients: Tensor) -> Tensor:
    """`combine` for several sets of coefficients at once: ``(n, d)`` and ``(m, n)`` to ``(m, d)``."""
    weights = coefficients.to(device=rows.device, dtype=torch.float64)
    result = torch.empty(weights.shape[0], rows.shape[1], dtype=rows.dtype, device=rows.device)
    for span in spans(rows.shape[1]):
        result[:, span] = (weights @ rows[:, span].double()).to(rows.dtype)
    return result


def gram(rows: Tensor, *, centre: Tensor | None = None) -> Tensor:
    """Inner products of all pairs of rows, less a centre: ``(n, d)`` to ``(n, n)`` fp64."""
    n = rows.shape[0]
    total = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    for span in spans(rows.shape[1]):
        block = rows[:, span].double()
        if centre is not None:
            block -= centre[span].double()
        total.addmm_(block, block.t())
    return total


def centred_gram(rows: Tensor) -> Tensor:
    """`gram` about the coordinate-wise median."""
    return gram(rows, centre=coordinate_median(rows))


def squared_distances(products: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs from a Gram matrix ``(n, n)``; never negative, zero on the diagonal."""
    squares = products.diagonal()
    distances = (squares.unsqueeze(0) + squares.unsqueeze(1) - 2.0 * products).clamp_min(0.0)
    return distances.fill_diagonal_(0.0)


def cosines(products: Tensor) -> Tensor:
    """Cosines of all pairs from a Gram matrix ``(n, n)``, in [-1, 1]; 0 where a row is zero."""
    norms = products.diagonal().clamp_min(0.0).sqrt()
    scale = torch.where(norms > 0, 1.0 / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
    return (products * scale.unsqueeze(0) * scale.unsqueeze(1)).clamp(-1.0, 1.0)


def row_norms(rows: Tensor, *, centre: Tensor | None = None) -> Tensor:
    """Euclidean norm of each row, less a centre: ``(n, d)`` to ``(n,)`` fp64."""
    total = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    for span in spans(rows.shape[1]):
        block = rows[:, span].double()
        if centre is not None:
            block -= centre[span].double()
        total += block.square_().sum(dim=1)
    return total.sqrt()


def dots(rows: Tensor, vector: Tensor) -> Tensor:
    """Inner product of each row with a vector: ``(n, d)`` and ``(d,)`` to ``(n,)`` fp64."""
    total = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    for span in spans(rows.shape[1]):
        total += rows[:, span].double() @ vector[span].double()
    return total
