"""Input restriction: the model reads a coarser input, in which small perturbations have less room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedsec.data.examples import DatasetInfo
from fedsec.protocol.payload import Kind
from fedsec.protocol.stage import Defense, EnforcedBy, Guarantee, Setting
from fedsec.threat import Paper, Taxonomy

Smoothing = Literal["none", "median", "gaussian"]
_GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""


class Restriction(nn.Module):
    """Grey scale, then fewer levels, then smoothing; the shape of the input stays.

    Levels have no useful gradient: there it passes straight through, as in backward pass differentiable approximation
    (Athalye et al. 2018, section 4.1). Grey scale and smoothing keep their own, which says more: that of a median is
    the gradient of the value that it picks.

    Args:
        grey: replace the three channels by their luma.
        bits: levels per value are ``2 ** bits`` over the bounds, 0 for all.
        smoothing: over each channel, the border repeated.
        window: side of the median's window, or of the Gaussian kernel.
        bounds: lowest and highest value of an input.
        straight_through: without it levels keep the gradient that autograd gives them, which is none.
    """

    def __init__(
        self,
        *,
        grey: bool,
        bits: int,
        smoothing: Smoothing,
        window: int,
        bounds: tuple[float, float],
        straight_through: bool = True,
    ) -> None:
        super().__init__()
        self.grey, self.bits, self.smoothing, self.window = grey, bits, smoothing, window
        self.bounds, self.straight_through = bounds, straight_through
        # buffers outside the state: they are no part of an update
        self.register_buffer("luma", torch.tensor(_GREY).reshape(3, 1, 1), persistent=False)
        self.register_buffer("kernel", _gaussian(window), persistent=False)
        self.luma: Tensor
        self.kernel: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, h, w)`` (or ``(b, features)`` where only levels are cut) to the same shape."""
        if self.grey:
            x = (x * self.luma).sum(-3, keepdim=True).expand_as(x)
        if self.bits:
            x = self._through(x, self._levels(x))
        if self.smoothing == "gaussian":
            kernel = self.kernel.expand(x.shape[-3], 1, self.window, self.window)
            x = functional.conv2d(self._padded(x), kernel, groups=x.shape[-3])
        elif self.smoothing == "median":
            x = self._median(x)
        return x

    def _through(self, x: Tensor, restricted: Tensor) -> Tensor:
        return x + (restricted - x).detach() if self.straight_through else restricted

    def _levels(self, x: Tensor) -> Tensor:
        (low, high), steps = self.bounds, 2.0**self.bits - 1
        shares = (x - low) / (high - low)
        return (shares * steps).round() / steps * (high - low) + low

    def _median(self, x: Tensor) -> Tensor:
        padded, (height, width) = self._padded(x), x.shape[-2:]
        shifts = [
            padded[..., row : row + height, column : column + width]
            for row in range(self.window)
            for column in range(self.window)
        ]
        return torch.stack(shifts).median(0).values

    def _padded(self, x: Tensor) -> Tensor:
        side = self.window // 2
        return functional.pad(x, (side, side, side, side), mode="replicate")


def _gaussian(window: int) -> Tensor:
    """A Gaussian kernel ``(1, 1, window, window)`` of sum 1, with a deviation of a quarter of the window."""
    places = torch.arange(window) - window // 2
    line = torch.exp(-(places**2) / (2 * (window / 4) ** 2))
    return (line[:, None] * line / line.sum() ** 2)[None, None]


@dataclass(frozen=True, kw_only=True)
class InputRestriction(Defense):
    """The released model begins with a step that throws away detail of its input (feature squeezing).

    The step is a part of the architecture: everybody trains behind it, and whoever has the model attacks through it.
    So its gradient must be one that an attacker can use, or attacks fail for a reason that has nothing to do with
    robustness: it passes straight through. ``straight_through: false`` shows what papers measured that forgot this;
    the masking battery then calls the model masked. Values beyond the bounds are not moved to them here.

    The source detects attacks by comparing predictions before and after the step; here the step alone stands in the
    model, without the detector.
    """

    name: ClassVar[str] = "input-restriction"
    summary: ClassVar[str] = "Puts grey scale, fewer levels or smoothing in front of the model that everybody trains"
    family: ClassVar[str] = "input restriction"
    paper: ClassVar[Paper | None] = Paper(
        title="Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks",
        authors="Xu, Evans, Qi",
        venue="NDSS 2018",
        where="section 3; the straight-through gradient: Athalye, Carlini, Wagner 2018, section 4.1",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (Taxonomy("mitre-atlas-5.6", "AML.M0010", "Input Restoration", "exact"),)
    cost: ClassVar[str] = "detail of the input, and one pass over it"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="how the released model reads inputs whose perturbation is smaller than what is thrown away",
        against="perturbations that were not made through the step; an attacker who has the model makes them so",
        assuming="nothing: it is measured, and against an adaptive attacker it seldom helps",
    )
    accepts: ClassVar[frozenset[Kind]] = frozenset({Kind.PLAIN, Kind.SEALED, Kind.MASKED})

    grey: Annotated[bool, Field(description="replace colours by their brightness")] = False
    bits: Annotated[int, Field(ge=0, le=8, description="bits per input value that are left; 0 for all")] = 3
    smoothing: Annotated[Smoothing, Field(description="none, median or gaussian, over each channel")] = "none"
    window: Annotated[int, Field(ge=2, le=9, description="side of the smoothing window in pixels, odd")] = 3
    straight_through: Annotated[
        bool, Field(description="let gradients pass where the step has none, for training and for the attacker")
    ] = True

    @property
    def enforcement(self) -> EnforcedBy:
        """A model without it is another model."""
        return EnforcedBy.FORMAT

    def problems(self, setting: Setting) -> Sequence[tuple[str, str]]:
        """See `Defense.problems`."""
        if setting.bounds is None:
            return (("the inputs are tokens, which have neither levels nor neighbours", f"leave {self.name} out"),)
        found = []
        if not (self.grey or self.bits or self.smoothing != "none"):
            found.append(("it restricts nothing", "write bits: 3, grey: true or smoothing: median"))
        if self.smoothing != "none" and len(setting.input_shape) != 3:
            found.append(("the inputs are no images, so there is nothing to smooth over", "write smoothing: none"))
        if self.smoothing != "none" and self.window % 2 == 0:
            found.append((f"a window of {self.window} pixels has no middle", f"write window: {self.window + 1}"))
        if self.grey and (len(setting.input_shape) != 3 or setting.input_shape[0] != 3):
            found.append(("the inputs have no three channels to make grey", "write grey: false"))
        return tuple(found)

    def architecture(self, module: nn.Module, info: DatasetInfo) -> nn.Module:
        """See `Defense.architecture`."""
        low, high = info.bounds or (-math.inf, math.inf)
        first = Restriction(
            grey=self.grey,
            bits=self.bits,
            smoothing=self.smoothing,
            window=self.window,
            bounds=(low, high),
            straight_through=self.straight_through,
        )
        return nn.Sequential(first, module)
