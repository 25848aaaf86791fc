"""Partitions whose clients live in different environments: the inputs or the labels change from client to client."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fedsec.data.allocation import equal_sizes, offsets_of, refuse, require_rows
from fedsec.data.examples import Examples
from fedsec.data.source import ClientIndex, Partition
from fedsec.randomness import numpy_generator
from fedsec.threat import Paper


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Images turned about their centre, bilinear, with the border repeated.

    Args:
        x: ``(n, channels, height, width)``.
        degrees: counter-clockwise as seen in a picture whose first row is on top.
    """
    angle = math.radians(degrees)
    height, width = x.shape[-2:]
    cos, sin = math.cos(angle), math.sin(angle)
    # grid coordinates run from -1 to 1 along both sides, so the turn is conjugated by the aspect ratio
    turn = x.new_tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
    grid = functional.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def swap_labels(y: Tensor, first: int, second: int) -> Tensor:
    """Labels with two classes exchanged."""
    return torch.where(y == first, second, torch.where(y == second, first, y))


def label_cycle(classes: int, concept: int) -> Tensor:
    """A permutation of the classes without a fixed point, ``(classes,)`` int64: one cycle per concept."""
    order = torch.from_numpy(numpy_generator("concept-shift", classes, concept).permutation(classes))
    image = torch.empty(classes, dtype=torch.int64)
    image[order] = order.roll(-1)
    return image


def _shuffled(pool: Examples, clients: int, generator: np.random.Generator) -> ClientIndex:
    require_rows(pool, clients, minimum=1)
    return ClientIndex(order=generator.permutation(len(pool)), offsets=offsets_of(equal_sizes(len(pool), clients)))


@dataclass(frozen=True, kw_only=True)
class FeatureSkew(Partition):
    """Equal random shares, seen through a sensor that gets worse from client to client.

    Client ``c`` of ``N`` applies its effects at the level ``(c + 1) / N`` of the parameters: rotation, contrast about
    the middle of the bounds, brightness, Gaussian noise, in this order; the result is clipped to the bounds.
    """

    name: ClassVar[str] = "feature-skew"
    summary: ClassVar[str] = "Inputs are noisier, darker or more rotated from client to client; labels are untouched"
    family: ClassVar[str] = "feature skew"
    paper: ClassVar[Paper | None] = Paper(
        "Federated Learning on Non-IID Data Silos: An Experimental Study",
        "Li, Diao, Chen, He",
        "ICDE 2022",
        "section 4, noise-based feature imbalance; the other effects are additions",
    )

    noise: Annotated[
        float, Field(ge=0, description="standard deviation of the noise at the last client, in input units")
    ] = 0.1
    rotation: Annotated[float, Field(ge=-180, le=180, description="turn at the last client, degrees; images only")] = (
        0.0
    )
    brightness: Annotated[float, Field(description="added at the last client, in input units")] = 0.0
    contrast: Annotated[float, Field(ge=-1, description="relative change of contrast at the last client")] = 0.0
    low: Annotated[float, Field(description="lowest value of an input; the dataset's bound")] = 0.0
    high: Annotated[float, Field(description="highest value of an input; the dataset's bound")] = 1.0

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool as `Shuffle` does.

        Raises:
            ConfigurationError: there are fewer examples than clients, inputs are tokens or lie beyond the bounds, or a
                rotation is asked of inputs that are not images.
        """
        if not pool.x.is_floating_point():
            raise refuse("token inputs", "feature skew changes real-valued inputs", "Use 'natural' or 'dirichlet'")
        if self.rotation and pool.x.ndim != 4:
            shape = tuple(pool.x.shape[1:])
            raise refuse(
                f"inputs of shape {shape}", "only images (channels, height, width) can be rotated", field="rotation"
            )
        if len(pool) and (float(pool.x.min()) < self.low - 1e-5 or float(pool.x.max()) > self.high + 1e-5):
            raise refuse(
                f"low={self.low:g}, high={self.high:g}",
                f"inputs run from {float(pool.x.min()):g} to {float(pool.x.max()):g} and would be cut off",
                "Give the bounds of the dataset as low and high",
                field="low",
            )
        return _shuffled(pool, clients, generator)

    def transform(self, client: int, clients: int, shard: Examples, *, generator: torch.Generator) -> Examples:
        """The client's view of its examples; the noise is the first draw of ``generator``."""
        level = (client + 1) / clients
        x = shard.x
        if self.rotation:
            x = rotate(x, self.rotation * level)
        if self.contrast:
            middle = (self.low + self.high) / 2
            x = (x - middle) * (1 + self.contrast * level) + middle
        if self.brightness:
            x = x + self.brightness * level
        if self.noise:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device)
            x = x + noise.to(x.device) * (self.noise * level)
        return Examples(x.clamp(self.low, self.high), shard.y, shard.attributes)


@dataclass(frozen=True, kw_only=True)
class ConceptShift(Partition):
    """Equal random shares, where some clients mean something else by the same label.

    ``floor(share * N)`` of the clients are shifted, evenly spread over the client numbers. ``swap`` exchanges two
    classes; ``permute`` gives the shifted clients, in turn, one of ``concepts`` fixed permutations of all classes
    without a fixed point.
    """

    name: ClassVar[str] = "concept-shift"
    summary: ClassVar[str] = "On a share of the clients the labels are swapped or permuted; inputs are untouched"
    family: ClassVar[str] = "concept shift"
    paper: ClassVar[Paper | None] = Paper(
        "Advances and Open Problems in Federated Learning",
        "Kairouz, McMahan et al.",
        "Foundations and Trends in Machine Learning 14, 2021",
        "section 3.1, same features, different label",
    )

    share: Annotated[float, Field(ge=0, le=1, description="share of clients whose labels are shifted")] = 0.5
    mode: Annotated[Literal["swap", "permute"], Field(description="exchange two classes, or permute all")] = "swap"
    first: Annotated[int, Field(ge=0, description="swap: one of the classes")] = 0
    second: Annotated[int, Field(ge=0, description="swap: the other class")] = 1
    classes: Annotated[int, Field(ge=2, description="permute: number of classes of the dataset")] = 10
    concepts: Annotated[int, Field(ge=1, description="permute: number of different permutations")] = 1

    def assign(self, pool: Examples, clients: int, *, generator: np.random.Generator) -> ClientIndex:
        """Spread the pool as `Shuffle` does.

        Raises:
            ConfigurationError: there are fewer examples than clients, the targets are not classes, or a class does not
                exist.
        """
        if pool.y.ndim != 1 or pool.y.is_floating_point():
            raise refuse(f"targets of type {pool.y.dtype}", "a concept shift needs one class per example")
        top = int(pool.y.max()) if len(pool) else 0
        if self.mode == "swap" and max(self.first, self.second) > top:
            raise refuse(f"classes {self.first} and {self.second}", f"the classes run from 0 to {top}", field="second")
        if self.mode == "swap" and self.first == self.second:
            raise refuse(f"class {self.first} twice", "two different classes are exchanged", field="second")
        if self.mode == "permute" and top >= self.classes:
            raise refuse(str(self.classes), f"the classes run from 0 to {top}", f"Use {top + 1}", field="classes")
        return _shuffled(pool, clients, generator)

    def transform(self, client: int, clients: int, shard: Examples, *, generator: torch.Generator) -> Examples:
        """The client's labels; nothing is drawn."""
        before, after = (math.floor(count * self.share + 1e-9) for count in (client, client + 1))
        if before == after:
            return shard
        if self.mode == "swap":
            y = swap_labels(shard.y, self.first, self.second)
        else:
            y = label_cycle(self.classes, before % self.concepts).to(shard.y.device)[shard.y]
        return Examples(shard.x, y, shard.attributes)
