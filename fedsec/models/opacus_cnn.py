"""The convolutional network of Opacus' MNIST example, on which DP-SGD is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from fedsec.data.examples import DatasetInfo
from fedsec.models.fit import image_shape, output_width
from fedsec.models.mnist_cnn import Standardise
from fedsec.models.source import ModelSource
from fedsec.threat import Paper


@dataclass(frozen=True, kw_only=True)
class OpacusCNN(ModelSource):
    """Convolutions of 16 8x8 and 32 4x4 kernels with stride 2, overlapping max-pooling, and 32 hidden units.

    26,010 parameters for 28x28 images and 10 classes. Inputs are standardised first.
    """

    name: ClassVar[str] = "opacus-cnn"
    summary: ClassVar[str] = "Two strided convolutions and 32 hidden units, as in Opacus' MNIST example"
    family: ClassVar[str] = "convolutional"
    paper: ClassVar[Paper] = Paper(
        "Opacus: User-Friendly Differential Privacy Library in PyTorch",
        "Yousefpour, Shilov, Sablayrolles, et al.",
        "arXiv 2109.12298, 2021",
        "its MNIST example",
    )
    cost: ClassVar[str] = "26,010 parameters for 28x28 images"

    mean: Annotated[float, Field(description="subtracted from the inputs; the default is that of MNIST")] = 0.1307
    deviation: Annotated[float, Field(gt=0, description="inputs are divided by it; the default is that of MNIST")] = (
        0.3081
    )

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, height, width = image_shape(self.name, info, smallest=14)

        def left(size: int) -> int:
            first = (size + 6 - 8) // 2
            return (first - 4) // 2

        return nn.Sequential(
            Standardise(self.mean, self.deviation),
            nn.Conv2d(channels, 16, 8, stride=2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(32 * left(height) * left(width), 32),
            nn.ReLU(),
            nn.Linear(32, output_width(self.name, info)),
        )
