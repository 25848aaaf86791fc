"""Exhibit pixels as PNG images inside the page, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

LARGEST_SIDE = 64
"""Longest side of a thumbnail in pixels; larger exhibits are scaled down."""


class Budget:
    """Bytes that images may still take; what does not fit is left out and counted."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.refused = 0

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes fit; takes them if they do."""
        if size > self.left:
            self.refused += 1
            return False
        self.left -= size
        return True


def is_image(shape: Sequence[int]) -> bool:
    """Whether an exhibit of this shape can be shown as a picture: grey or RGB, ``[C, H, W]``."""
    return len(shape) == 3 and shape[0] in (1, 3)


def png(values: Sequence[float | None], shape: Sequence[int], bounds: tuple[float, float]) -> bytes:
    """A PNG of one example.

    Args:
        values: ``C * H * W`` numbers, row-major; what is no number is drawn as the lower bound.
        shape: ``[C, H, W]`` with one or three channels.
        bounds: the values of black and white; what lies outside is drawn at the nearer one.

    Raises:
        ValueError: if there are not ``C * H * W`` values.
    """
    channels, height, width = shape
    count = channels * height * width
    if len(values) != count:
        raise ValueError(f"an exhibit of shape {list(shape)} has {count} values, found {len(values)}")
    low, high = bounds
    numbers = np.array(values, dtype=np.float64)
    shares = np.clip((np.nan_to_num(numbers, nan=low) - low) / ((high - low) or 1.0), 0.0, 1.0)
    levels = np.round(shares * 255).astype(np.uint8).reshape(channels, height, width)
    image = Image.fromarray(levels[0]) if channels == 1 else Image.fromarray(levels.transpose(1, 2, 0).copy())
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def data_uri(values: Sequence[float | None], shape: Sequence[int], bounds: tuple[float, float]) -> str:
    """The PNG as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(values, shape, bounds)).decode("ascii")
