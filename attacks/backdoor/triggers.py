"""Triggers: marks on an image, as masks of pixels and one value."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Shape = Literal["pixel", "pattern", "patch"]

_PATTERN = ((2, 2), (2, 4), (4, 2), (3, 3))
"""Rows and columns of the four pixels, counted from the bottom right corner, which is (1, 1)."""


def trigger(shape: Shape, height: int, width: int, *, size: int = 3) -> Tensor:
    """Pixels of a trigger near the bottom right corner, which in digits is empty.

    The two of BadNets (Gu et al. 2017, section 3.1.2): a single bright pixel, and a pattern of four of them; and the
    solid square that later work uses.

    Args:
        shape: ``pixel``, ``pattern`` or ``patch``.
        height: of the image, in pixels.
        width: of the image, in pixels.
        size: side of the patch, in pixels.

    Returns:
        ``(height, width)`` bool.

    Raises:
        ValueError: the image is too small for it.
    """
    reach = {"pixel": 2, "pattern": 4, "patch": size + 1}[shape]
    if reach > min(height, width):
        raise ValueError(f"a trigger of shape {shape} needs {reach} x {reach} pixels, the image has {height} x {width}")
    mask = torch.zeros(height, width, dtype=torch.bool)
    if shape == "pixel":
        mask[height - 2, width - 2] = True
    elif shape == "pattern":
        for row, column in _PATTERN:
            mask[height - row, width - column] = True
    else:
        mask[height - 1 - size : height - 1, width - 1 - size : width - 1] = True
    return mask


def bars(height: int, width: int, *, length: int = 4, gap: int = 2, shift: int = 0) -> Tensor:
    """The four parts of DBA's trigger: bars one pixel high, two beside each other and two below them.

    Xie et al. (ICLR 2020, section 4.1): trigger size, gap and location. Their union is the trigger at deployment.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        length: of a bar, in pixels (the paper's trigger size; 4 on MNIST).
        gap: empty pixels between bars, in both directions.
        shift: distance of the whole from the top left corner, in both directions.

    Returns:
        ``(4, height, width)`` bool, disjoint parts: top left, top right, bottom left, bottom right.

    Raises:
        ValueError: they do not fit.
    """
    bottom, right = shift + 2 + gap, shift + 2 * length + gap
    if bottom > height or right > width:
        raise ValueError(f"the bars need {bottom} x {right} pixels, the image has {height} x {width}")
    mask = torch.zeros(4, height, width, dtype=torch.bool)
    for part in range(4):
        row = shift + (part // 2) * (1 + gap)
        column = shift + (part % 2) * (length + gap)
        mask[part, row, column : column + length] = True
    return mask


def stamp(x: Tensor, mask: Tensor, *, value: float, opacity: float = 1.0) -> Tensor:
    """Images with a trigger.

    Args:
        x: ``(n, channels, height, width)``; not changed.
        mask: ``(height, width)`` bool, the same pixels in every channel.
        value: of a marked pixel.
        opacity: weight of ``value`` against what the pixel was, in [0, 1].

    Returns:
        Images like ``x``.
    """
    marked = value if opacity >= 1.0 else x + opacity * (value - x)
    return torch.where(mask.to(x.device), marked, x)
