"""Exhibit pixels as PNG images inside the page, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

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


def png(values: Sequence[float], shape: Sequence[int], bounds: tuple[float, float]) -> bytes:
    """A PNG of one example.

    Args:
        values: ``C * H * W`` numbers, row-major.
        shape: ``[C, H, W]`` with one or three channels.
        bounds: the values of black and white; what lies outside is drawn at the nearer one.

    Raises:
        ValueError: if there are not ``C * H * W`` values.
    """
    channels, height, width = shape
    plane = height * width
    if len(values) != channels * plane:
        raise ValueError(f"an exhibit of shape {list(shape)} has {channels * plane} values, found {len(values)}")
    low, high = bounds
    span = (high - low) or 1.0
    known = (low if value is None or value != value else value for value in values)
    levels = [round(255 * min(1.0, max(0.0, (value - low) / span))) for value in known]
    if channels == 1:
        image = Image.frombytes("L", (width, height), bytes(levels))
    else:
        mixed = bytes(levels[c * plane + k] for k in range(plane) for c in range(3))
        image = Image.frombytes("RGB", (width, height), mixed)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def data_uri(values: Sequence[float], shape: Sequence[int], bounds: tuple[float, float]) -> str:
    """The PNG as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(values, shape, bounds)).decode("ascii")
