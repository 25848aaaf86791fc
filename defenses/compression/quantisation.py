"""Quantisation of updates: QSGD, and one byte per value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.payload import Code
from fedsec.protocol.stage import Guarantee, RoundContext
from fedsec.threat import Paper

from .compression import Compression, CompressionWithMemory, uniforms
from .grid import LARGEST_LEVEL, GridCode, exact_units, segments, to_multiples


def norm_units(updates: Tensor, bounds: tuple[int, ...], levels: int) -> Tensor:
    """L2 norm of each segment over ``levels``, rounded up to an exact unit: ``(n, len(bounds))`` float64."""
    squares = updates.double().square()
    sums = squares.new_zeros(len(updates), len(bounds)).index_add_(1, segments(bounds).to(updates.device), squares)
    return exact_units(sums.sqrt() / levels)


def peak_units(updates: Tensor, bounds: tuple[int, ...], levels: int) -> Tensor:
    """Largest magnitude of each segment over ``levels``, rounded up to an exact unit: ``(n, len(bounds))`` float64."""
    starts = (0, *bounds[:-1])
    peaks = [updates[:, start:stop].abs().amax(1) for start, stop in zip(starts, bounds, strict=True)]
    return exact_units(torch.stack(peaks, dim=1).double() / levels)


def spread(units: Tensor, bounds: tuple[int, ...]) -> Tensor:
    """Units of segments ``(n, s)`` as units of coordinates ``(n, k)``."""
    return units[:, segments(bounds).to(units.device)]


@dataclass(frozen=True, kw_only=True)
class QSGD(Compression):
    """Round each coordinate at random to one of ``levels`` multiples of the norm, so that it is right on average.

    ``Q(v)_i = |v| / s`` times ``|v_i| s / |v|`` rounded up or down at random, with the sign of ``v_i``; the norm is
    that of a bucket of consecutive coordinates. The unit ``|v| / s`` is rounded up to 16 binary digits, which changes
    the grid and not the average. Levels travel in the fewest bits that hold ``-s .. s``; the paper's Elias code is
    not built: it pays where most levels are 0, at few levels and large buckets. It needs no error feedback, and has
    none: with few levels it is no contraction.
    """

    name: ClassVar[str] = "qsgd"
    summary: ClassVar[str] = "Rounds an update at random to a few multiples of its norm, right on average (QSGD)"
    paper: ClassVar[Paper | None] = Paper(
        title="QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding",
        authors="Alistarh, Grubic, Li, Tomioka, Vojnovic",
        venue="NeurIPS 2017",
        where="section 3.1, with the buckets of section 4 and a fixed-width code",
    )
    cost: ClassVar[str] = "one draw per coordinate; noise of up to min(b / s^2, sqrt(b) / s) squared lengths per bucket"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="nothing by itself: it saves bytes, and rounding noise is no calibrated noise",
        against="nobody who reads the update: the rounded update is right on average",
        assuming="clients round; many rounds average the rounding out",
    )

    levels: Annotated[int, Field(ge=1, le=127, description="positive levels s; 7 take 4 bits a value, 127 take 8")] = 7
    bucket: Annotated[int, Field(ge=1, description="coordinates that share one norm (4 bytes each)")] = 512

    @property
    def unbiased(self) -> bool:
        """Always."""
        return True

    def compress(self, updates: Tensor, context: RoundContext) -> tuple[Tensor, Code]:
        """Levels of each bucket; the code is `GridCode`."""
        trainable = updates.shape[1]
        bounds = (*range(self.bucket, trainable, self.bucket), trainable)
        units = spread(norm_units(updates, bounds, self.levels), bounds)
        sent = to_multiples(updates, units, uniforms(context, "rounding", updates))
        return sent, GridCode(context.layout.size, trainable, updates.dtype, bounds, self.levels)


@dataclass(frozen=True, kw_only=True)
class Quantize8Bit(CompressionWithMemory):
    """One byte per parameter: whole multiples up to 127 of a scale, one scale per tensor of the model.

    The scale is the tensor's largest magnitude over 127 (rounded up to 16 binary digits), so nothing saturates.
    ``stochastic`` rounding is right on average; ``nearest`` has the smaller error, at most half a scale, and is biased.
    """

    name: ClassVar[str] = "quantize-8bit"
    summary: ClassVar[str] = "Sends each parameter of an update in one byte, with one scale per tensor"
    paper: ClassVar[Paper | None] = Paper(
        title="Federated Learning: Strategies for Improving Communication Efficiency",
        authors="Konečný, McMahan, Yu, Richtárik, Suresh, Bacon",
        venue="NIPS workshop 2016, arXiv 1610.05492",
        where="section 3, probabilistic quantization (here symmetric about 0)",
    )
    cost: ClassVar[str] = "one pass over each update; a quarter of the bytes"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="nothing by itself: it saves bytes",
        against="nobody who reads the update: eight bits are enough for inversion",
        assuming="clients round",
    )

    rounding: Annotated[
        Literal["stochastic", "nearest"], Field(description="at random and right on average, or to the nearest")
    ] = "stochastic"

    @property
    def unbiased(self) -> bool:
        """With stochastic rounding, error feedback or not: what is added stays as it is on average."""
        return self.rounding == "stochastic" and not self.error_feedback

    def compress(self, updates: Tensor, context: RoundContext) -> tuple[Tensor, Code]:
        """One byte per value; the code is `GridCode`."""
        bounds = tuple(slot.stop for slot in context.layout.parameters)
        units = spread(peak_units(updates, bounds, LARGEST_LEVEL), bounds)
        draws = uniforms(context, "rounding", updates) if self.rounding == "stochastic" else None
        sent = to_multiples(updates, units, draws)
        return sent, GridCode(context.layout.size, updates.shape[1], updates.dtype, bounds, LARGEST_LEVEL)


__all__ = ["QSGD", "Quantize8Bit", "norm_units", "peak_units", "spread"]
