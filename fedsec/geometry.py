"""The geometry of a round: distances, norms, inner products and sorted coordinates of an ``(n, d)`` matrix.

Shared by robust rules, detectors and the poisoning attacks that adapt to them. Two things decide whether
distances between nearly equal rows are right:

- ``|a|^2 + |b|^2 - 2 a.b`` on raw rows cancels (in fp32, 9 % error for updates that are 0.3 % apart), so rows
  are centred first, and products are formed and summed in fp64, one chunk of coordinates at a time. In large rounds
  of fp32 rows, products within a chunk are fp32, unless some rows lie close together and far from the centre; where
  all lie far apart, as noisy updates do, no centre is needed either (`far_gram`).
- A finite but huge row moves the mean so far that centring on it destroys the distances between all others. Rows are
  centred on one of them, chosen so that fewer than half of the rows cannot push it away (`central_row`).

What reads every number once (norms, weighted sums) works in the precision of the rows, where it errs by some units in
the last place of what is summed. Peak memory beside input and output is ``O(n * CHUNK)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from fedsec.pages import unfilled

CHUNK = 1 << 13
"""Coordinates per chunk: an fp64 chunk of 50 rows is 3.3 MB, about a core's share of the cache."""
FEW = 1 << 20
"""Numbers of a round below which all products are fp64."""

CLOSE = 0.05
"""Squared distance of two rows, over their squared distances from the centre, below which fp32 is not enough."""

SAMPLE = 1 << 10
"""Coordinates from which a central row is chosen."""


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
    finite = finite_rows(rows)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"rows {bad} hold NaN or infinity; drop them first")


def finite_rows(rows: Tensor) -> Tensor:
    """Which rows hold neither NaN nor infinity: ``(n, d)`` to ``(n,)`` bool."""
    # a finite sum has finite terms, and costs a tenth of looking at each; one that overflowed says nothing
    finite = torch.isfinite(rows.detach().sum(dim=1))
    for row in (~finite).nonzero().flatten().tolist():
        finite[row] = torch.isfinite(rows[row]).all()
    return finite


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
        if block.dtype in (torch.float16, torch.bfloat16):
            block = block.float()
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
        result[span] = (ordered[:, low] * 0.5 + ordered[:, high] * 0.5).to(rows.dtype)
    return result


def trimmed_mean(rows: Tensor, trim: int) -> Tensor:
    """Mean of each coordinate without its ``trim`` lowest and ``trim`` highest values, ``(n, d)`` to ``(d,)``."""
    n = rows.shape[0]
    share = torch.full((n - 2 * trim,), 1.0 / (n - 2 * trim), dtype=torch.float64, device=rows.device)
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    for span, ordered in sorted_coordinates(rows):
        result[span] = (ordered[:, trim : n - trim].double() @ share).to(rows.dtype)
    return result


def mean_around_median(rows: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` values of each column nearest its median, ``(n, d)`` to ``(d,)``; a tie takes the lower."""
    n = rows.shape[0]
    low, high, shift = (n - 1) // 2, n // 2, n - count
    places = torch.arange(n, device=rows.device)
    result = torch.empty(rows.shape[1], dtype=rows.dtype, device=rows.device)
    for span, ordered in sorted_coordinates(rows):
        values = ordered.double()
        # the nearest values are consecutive; each comparison moves the window up by one place
        twice = values[:, low] + values[:, high]
        first = (values[:, count:] + values[:, :shift] < twice.unsqueeze(1)).sum(dim=1, keepdim=True)
        inside = (places >= first) & (places < first + count)
        result[span] = (values.where(inside, 0.0).sum(dim=1) / count).to(rows.dtype)
    return result


def combine(rows: Tensor, coefficients: Tensor) -> Tensor:
    """``sum_i c_i x_i`` in the precision of the rows: ``(n, d)`` and ``(n,)`` to ``(d,)``."""
    return combine_many(rows, coefficients.unsqueeze(0))[0]


def combine_many(rows: Tensor, coefficients: Tensor) -> Tensor:
    """`combine` for several sets of coefficients at once: ``(n, d)`` and ``(m, n)`` to ``(m, d)``."""
    rows = rows.detach()
    if rows.dtype not in (torch.float32, torch.float64):
        weights = coefficients.to(device=rows.device, dtype=torch.float32)
        result = torch.empty(len(weights), rows.shape[1], dtype=rows.dtype, device=rows.device)
        for span in spans(rows.shape[1]):
            result[:, span] = (weights @ rows[:, span].float()).to(rows.dtype)
        return result
    weights = coefficients.to(device=rows.device, dtype=rows.dtype)
    if len(weights) == 1:
        return (weights[0] @ rows).unsqueeze(0)
    places = weights.nonzero()
    result = unfilled(len(weights), rows.shape[1], rows)
    if len(places) > 2 * rows.shape[0]:
        return torch.mm(weights, rows, out=result)
    # few entries, as of buckets and of clipping: row by row
    begun = [False] * len(weights)
    for (to, of), weight in zip(places.tolist(), weights[places[:, 0], places[:, 1]].tolist(), strict=True):
        if begun[to]:
            result[to].add_(rows[of], alpha=weight)
        else:
            torch.mul(rows[of], weight, out=result[to])
            begun[to] = True
    for to, done in enumerate(begun):
        if not done:
            result[to].zero_()
    return result


def gram(rows: Tensor, *, centre: Tensor | None = None) -> Tensor:
    """Inner products of all pairs of rows, less a centre: ``(n, d)`` to ``(n, n)`` fp64.

    Args:
        rows: ``(n, d)``.
        centre: ``(d,)`` subtracted from each; ``None`` is zero.

    Raises:
        ValueError: a sum of squares exceeds fp64.
    """
    products = _products(rows.detach(), torch.float64, centre)
    if not bool(torch.isfinite(products).all()):
        raise ValueError("rows are so long that the squares of their lengths exceed fp64")
    return products


def _products(rows: Tensor, dtype: torch.dtype, centre: Tensor | None) -> Tensor:
    n = rows.shape[0]
    total = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    block = torch.empty(n, min(rows.shape[1], CHUNK), dtype=dtype, device=rows.device)
    with _one_library(rows):
        for span in spans(rows.shape[1]):
            part = block[:, : span.stop - span.start]
            if centre is not None and dtype == rows.dtype == centre.dtype:
                torch.sub(rows[:, span], centre[span], out=part)
            else:
                part.copy_(rows[:, span])
                if centre is not None:
                    part.sub_(centre[span])
            total += _product_with_itself(block, part.shape[1])
    return total


def _product_with_itself(block: Tensor, width: int) -> Tensor:
    """``part @ part.T`` of the first columns; numpy sees that both factors are one and computes half of it."""
    part = block[:, :width]
    if block.device.type != "cpu":
        return part @ part.t()
    if block.dtype == torch.float32:
        products: Tensor = _compiled().row_products(block, stop=width)
        return products
    factor = part.numpy()
    return torch.from_numpy(np.matmul(factor, factor.T))


@cache
def _compiled() -> ModuleType:
    """Imported where it is needed: the compiler takes a second that small rounds should not pay."""
    from fedsec import row_products

    return row_products


@contextmanager
def _one_library(rows: Tensor) -> Iterator[None]:
    """Within it numpy multiplies with as many threads as torch, and does not warn of what is checked afterwards."""
    if rows.device.type != "cpu":
        yield
        return
    with _numpys_blas().limit(limits=torch.get_num_threads()), np.errstate(over="ignore", invalid="ignore"):
        yield


@cache
def _numpys_blas() -> ThreadpoolController:
    """The library behind numpy's products: its threads are not torch's, and spin where torch was told to use one."""
    return ThreadpoolController().select(internal_api="openblas")


def centred_gram(rows: Tensor) -> Tensor:
    """`gram` about `central_row`."""
    return gram_about(rows, central_row(rows))


def gram_about(rows: Tensor, centre: Tensor) -> Tensor:
    """`gram` about a row in the midst of the others, with fp32 products where they are enough: ``(n, n)`` fp64.

    In a large round of fp32 rows they are, for they err by some 1e-7 of squared distances from the centre, unless rows
    lie close together and far from the centre, as copies of one update do, or squares leave the range of fp32.
    """
    rows = rows.detach()
    if not coarse(rows) or centre.dtype != torch.float32:
        return gram(rows, centre=centre)
    step = rows.shape[1] // SAMPLE or 1
    if _close_pairs(gram(rows[:, ::step], centre=centre[::step])):  # a sample shows most copies beforehand
        return gram(rows, centre=centre)
    products = _products(rows, torch.float32, centre)
    # the centre's own square is 0
    if _close_pairs(products) or _within_range(products) < len(rows) - 1:
        return gram(rows, centre=centre)
    return products


def coarse(rows: Tensor) -> bool:
    """Whether a round is so large that products in fp32 are tried first."""
    return rows.dtype == torch.float32 and rows.numel() >= FEW


def far_gram(rows: Tensor) -> Tensor | None:
    """`gram` of fp32 rows as they are, by fp32 products, where these give the distances: ``(n, n)`` fp64.

    They do where every two rows lie about as far apart as from the origin, as noisy updates do: then no centre is
    needed, nor a copy of the rows. ``None`` otherwise, mostly after the first chunk.
    """
    rows = rows.detach()
    n, d = rows.shape
    total = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    for span in (slice(0, min(d, CHUNK)), slice(min(d, CHUNK), d)):
        if rows.device.type == "cpu":
            total += _compiled().row_products(rows.contiguous(), start=span.start, stop=span.stop)
        else:
            for start in range(span.start, span.stop, CHUNK):
                block = rows[:, start : min(start + CHUNK, d)]
                total += block @ block.t()
        if not _far_apart(total):
            return None
    return total


def _far_apart(products: Tensor) -> bool:
    """Whether no two rows are close (`CLOSE`) and all squares keep within fp32; by numpy, which starts faster."""
    table = products.cpu().numpy()
    squares = table.diagonal()
    if not ((squares > 1e-20) & (squares < 1e30)).all():
        return False
    both = squares[:, None] + squares
    # each row is close to itself
    return int(np.count_nonzero(both - 2.0 * table < CLOSE * both)) == len(table)


def _within_range(products: Tensor) -> int:
    """How many rows have squares whose products neither overflow nor vanish in fp32."""
    squares = products.diagonal()
    return int(((squares > 1e-20) & (squares < 1e30)).sum())


def _close_pairs(products: Tensor) -> bool:
    squares = products.diagonal()
    close = squared_distances(products) < CLOSE * (squares.unsqueeze(0) + squares.unsqueeze(1))
    return bool(close.fill_diagonal_(False).any())


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
    rows = rows.detach()
    if centre is None and rows.dtype == torch.float32:
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1).double()
        # outside of this range the squares of fp32 overflow or vanish
        for row in (~((norms < 1e15) & (norms > 1e-10))).nonzero().flatten().tolist():
            norms[row] = torch.linalg.vector_norm(rows[row].double())
        return norms
    total = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    same = centre is not None and centre.dtype == rows.dtype == torch.float32
    for span in spans(rows.shape[1]):
        block = rows[:, span] if same else rows[:, span].double()
        if centre is not None:
            block = block - centre[span] if same else block - centre[span].double()
        total += torch.linalg.vector_norm(block, dim=1).double().square()
    if same and centre is not None:
        for row in (~((total < 1e30) & (total > 1e-20))).nonzero().flatten().tolist():
            total[row] = (rows[row].double() - centre.double()).square().sum()
    return total.sqrt()


def dots(rows: Tensor, vector: Tensor) -> Tensor:
    """Inner product of each row with a vector: ``(n, d)`` and ``(d,)`` to ``(n,)`` fp64."""
    total = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    for span in spans(rows.shape[1]):
        total += rows[:, span].double() @ vector[span].double()
    return total


def central_row(rows: Tensor, *, norms: Tensor | None = None) -> Tensor:
    """A row that fewer than half of the rows cannot push far from the others, ``(n, d)`` to ``(d,)``.

    The row whose median distance to the others is smallest, measured on a sample of coordinates, among those
    whose norm is at most the median norm. The sample may mislead (somebody can hide in it); the bound on the norm is
    exact, so that products about this row lose no more digits than products about the origin.

    Args:
        rows: ``(n, d)``.
        norms: ``(n,)`` if they are known.
    """
    norms = row_norms(rows) if norms is None else norms
    step = max(1, rows.shape[1] // SAMPLE)
    sample = rows[:, ::step].double()
    distances = squared_distances(gram(sample, centre=coordinate_median(sample)))
    typical = distances.median(dim=1).values
    typical[norms > norms.median()] = torch.inf
    return rows[int(typical.argmin())]


def about_central_row(products: Tensor) -> Tensor:
    """From products about the origin ``(n, n)`` to those about the row with the smallest median distance to others."""
    row = int(squared_distances(products).median(dim=1).values.argmin())
    across = products[row]
    # one sum of both, so that rounding leaves it symmetric
    return products - (across.unsqueeze(0) + across.unsqueeze(1)) + across[row]
