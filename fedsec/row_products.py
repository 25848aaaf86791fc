"""Inner products of all pairs of fp32 rows on a CPU, five rows against five at a time, compiled for the processor.

A library's symmetric product is made for matrices about as wide as they are high. A round is a few dozen rows of a
million numbers: here each tile of 5 x 5 products keeps its sums in registers while it reads ten rows, and what it
reads stays in the cache for the next tile. ``benchmarks/aggregation.py`` measures what that saves.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SPAN = 1 << 10
"""Coordinates that one tile sums in fp32; 50 rows of them fit into a core's own cache."""
LONG = 1 << 14
"""Coordinates per call: what one thread takes at a time."""

_ORDER_FREE = {"reassoc", "contract", "nsz"}
"""Sums may take any order, which vector registers need; NaN and infinity keep their meaning."""


def row_products(rows: Tensor, *, start: int = 0, stop: int | None = None) -> Tensor:
    """Inner products of fp32 rows, summed in fp32 over short spans and in fp64 over these.

    The result does not depend on the number of threads (as many as torch has).

    Args:
        rows: ``(n, d)`` fp32 on a CPU, contiguous.
        start: first coordinate that counts.
        stop: one past the last that counts.

    Returns:
        ``(n, n)`` fp64, symmetric to the bit; rows that hold NaN or infinity have no finite square.

    Raises:
        ValueError: the rows are of another type, elsewhere or not contiguous.
    """
    if rows.dtype != torch.float32 or rows.device.type != "cpu" or not rows.is_contiguous():
        raise ValueError(f"expected contiguous fp32 rows on the CPU, got {rows.dtype} on {rows.device}")
    matrix = rows.detach().numpy()
    last = matrix.shape[1] if stop is None else stop
    starts = range(start, last, LONG)
    threads = min(torch.get_num_threads(), len(starts))
    part = partial(_part, matrix, last)
    total = np.zeros((matrix.shape[0], matrix.shape[0]))
    if threads <= 1:
        for begin in starts:
            total += part(begin)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for found in pool.map(part, starts):
                total += found
    upper = torch.from_numpy(total).triu()
    return upper + upper.triu(1).t()


def _part(matrix: NDArray[np.float32], stop: int, start: int) -> NDArray[np.float64]:
    out = np.zeros((matrix.shape[0], matrix.shape[0]))
    _upper_tiles(matrix, start, min(start + LONG, stop), out)
    return out


@numba.njit(nogil=True)
def _upper_tiles(rows: NDArray[np.float32], start: int, stop: int, out: NDArray[np.float64]) -> None:
    """Add to ``out`` the products on and above the diagonal; a tile that reaches over the last row repeats it."""
    n = len(rows)
    for first in range(start, stop, _SPAN):
        last = min(first + _SPAN, stop)
        for i in range(0, n, 5):
            for j in range(i, n, 5):
                tile = _tile(rows, i, j, first, last)
                for k in range(25):
                    a, b = i + k // 5, j + k % 5
                    if b < n and a <= b:
                        out[a, b] += tile[k]


@numba.njit(nogil=True, fastmath=_ORDER_FREE)
def _tile(rows: NDArray[np.float32], i: int, j: int, first: int, last: int) -> tuple[np.float32, ...]:
    end = len(rows) - 1
    a0 = rows[i, first:last]
    a1 = rows[min(i + 1, end), first:last]
    a2 = rows[min(i + 2, end), first:last]
    a3 = rows[min(i + 3, end), first:last]
    a4 = rows[min(i + 4, end), first:last]
    b0 = rows[j, first:last]
    b1 = rows[min(j + 1, end), first:last]
    b2 = rows[min(j + 2, end), first:last]
    b3 = rows[min(j + 3, end), first:last]
    b4 = rows[min(j + 4, end), first:last]
    s00 = s01 = s02 = s03 = s04 = np.float32(0.0)
    s10 = s11 = s12 = s13 = s14 = np.float32(0.0)
    s20 = s21 = s22 = s23 = s24 = np.float32(0.0)
    s30 = s31 = s32 = s33 = s34 = np.float32(0.0)
    s40 = s41 = s42 = s43 = s44 = np.float32(0.0)
    for k in range(last - first):
        s00 += a0[k] * b0[k]
        s01 += a0[k] * b1[k]
        s02 += a0[k] * b2[k]
        s03 += a0[k] * b3[k]
        s04 += a0[k] * b4[k]
        s10 += a1[k] * b0[k]
        s11 += a1[k] * b1[k]
        s12 += a1[k] * b2[k]
        s13 += a1[k] * b3[k]
        s14 += a1[k] * b4[k]
        s20 += a2[k] * b0[k]
        s21 += a2[k] * b1[k]
        s22 += a2[k] * b2[k]
        s23 += a2[k] * b3[k]
        s24 += a2[k] * b4[k]
        s30 += a3[k] * b0[k]
        s31 += a3[k] * b1[k]
        s32 += a3[k] * b2[k]
        s33 += a3[k] * b3[k]
        s34 += a3[k] * b4[k]
        s40 += a4[k] * b0[k]
        s41 += a4[k] * b1[k]
        s42 += a4[k] * b2[k]
        s43 += a4[k] * b3[k]
        s44 += a4[k] * b4[k]
    return (
        s00, s01, s02, s03, s04,
        s10, s11, s12, s13, s14,
        s20, s21, s22, s23, s24,
        s30, s31, s32, s33, s34,
        s40, s41, s42, s43, s44,
    )  # fmt: skip
