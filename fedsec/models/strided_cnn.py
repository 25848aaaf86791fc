"""A small convolutional network without pooling: strides instead, which a CPU runs several times faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from fedsec.data.examples import DatasetInfo
from fedsec.models.fit import image_shape, output_width
from fedsec.models.source import ModelSource
from fedsec.threat import Paper


@dataclass(frozen=True, kw_only=True)
class StridedCNN(ModelSource):
    """Two padded 4x4 convolutions of stride 2, ``width`` and twice as many channels, and a hidden layer.

    It is the network on which provable and adversarial training of MNIST are compared: 166,406 parameters at its
    defaults for 28x28 images and 10 classes. Without pooling its passes are cheap, which counts where each step of
    training takes ten.
    """

    name: ClassVar[str] = "strided-cnn"
    summary: ClassVar[str] = "Two convolutions of stride 2 and a hidden layer, as adversarial training is studied on"
    family: ClassVar[str] = "convolutional"
    paper: ClassVar[Paper] = Paper(
        "Provable Defenses against Adversarial Examples via the Convex Outer Adversarial Polytope",
        "Wong, Kolter",
        "ICML 2018",
        "section 4.2 (the network on MNIST)",
    )
    cost: ClassVar[str] = "166,406 parameters for 28x28 images and width 16; about a megaflop per image"

    width: Annotated[
        int, Field(ge=1, description="channels of the first convolution; the second has twice as many")
    ] = 16
    hidden: Annotated[int, Field(ge=1, description="units of the hidden layer")] = 100

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, height, width = image_shape(self.name, info, smallest=4)
        return nn.Sequential(
            nn.Conv2d(channels, self.width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.width, 2 * self.width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * self.width * (height // 4) * (width // 4), self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, output_width(self.name, info)),
        )
