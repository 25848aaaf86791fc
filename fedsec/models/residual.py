"""Residual networks for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo
from fedsec.errors import ConfigurationError, Problem
from fedsec.models.convolutional import normalisation
from fedsec.models.fit import image_shape, output_width
from fedsec.models.source import ModelSource
from fedsec.threat import Paper


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, *, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=bias),
            normalisation(norm, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=bias),
            normalisation(norm, after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=bias), normalisation(norm, after)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(b, before, h, w)`` to ``(b, after, h / stride, w / stride)``."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class Mean(nn.Module):
    """Mean over the pixels, ``(b, c, h, w)`` to ``(b, c)``."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.mean((-2, -1))


@dataclass(frozen=True, kw_only=True)
class ResNet(ModelSource):
    """The ``6n + 2``-layer residual network of He et al. for small images, with projection shortcuts (option B).

    Group norm is the default: batch-norm statistics mix clients and leak them. Small ones
    (``depth=8, width=8``) train on a CPU.
    """

    name: ClassVar[str] = "resnet"
    summary: ClassVar[str] = "Residual network of 6n + 2 layers for small images, with group or batch norm"
    family: ClassVar[str] = "residual"
    paper: ClassVar[Paper] = Paper(
        "Deep Residual Learning for Image Recognition", "He, Zhang, Ren, Sun", "CVPR 2016", "Section 4.2"
    )
    cost: ClassVar[str] = "about 78,000 parameters for depth 8 and width 16"

    depth: Annotated[int, Field(ge=8, description="layers with weights: 8, 14, 20, 32, 44, 56, 110")] = 8
    width: Annotated[int, Field(ge=1, description="channels of the first stage; the paper's is 16")] = 16
    norm: Annotated[Literal["none", "group", "batch"], Field(description="normalisation")] = "group"

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, _, _ = image_shape(self.name, info, smallest=8)
        if self.depth % 6 != 2:
            nearest = 6 * max(1, round((self.depth - 2) / 6)) + 2
            expected = "depth must be 6n + 2"
            hint = f"Use depth: {nearest}."
            found = str(self.depth)
            raise ConfigurationError(
                [Problem(path="federation.model.depth", found=found, expected=expected, hint=hint)]
            )
        layers: list[nn.Module] = [
            nn.Conv2d(channels, self.width, 3, padding=1, bias=self.norm == "none"),
            normalisation(self.norm, self.width),
            nn.ReLU(),
        ]
        before = self.width
        for stage in range(3):
            after = self.width * 2**stage
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage and not index else 1
                layers.append(Block(before, after, stride=stride, norm=self.norm))
                before = after
        return nn.Sequential(*layers, Mean(), nn.Linear(before, output_width(self.name, info)))
