"""The convolutional network of PyTorch's early MNIST example, on which ByzFL's benchmark runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo
from fedsec.models.fit import image_shape, output_width
from fedsec.models.source import ModelSource
from fedsec.threat import Paper


class Standardise(nn.Module):
    """``(x - mean) / deviation``, the same for every channel."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, x: Tensor) -> Tensor:
        """Inputs of any shape."""
        return (x - self.mean) / self.deviation


@dataclass(frozen=True, kw_only=True)
class CnnMnist(ModelSource):
    """Two unpadded 5x5 convolutions of 20 and 50 channels with max-pooling, and 500 hidden units.

    431,080 parameters for 28x28 images and 10 classes. Inputs are standardised first. Its loss is the cross entropy of
    the logits, which is the negative log-likelihood of the log-softmax that the source ends in.
    """

    name: ClassVar[str] = "cnn-mnist"
    summary: ClassVar[str] = "Two 5x5 convolutions of 20 and 50 channels and 500 hidden units, as in ByzFL's benchmark"
    family: ClassVar[str] = "convolutional"
    paper: ClassVar[Paper] = Paper(
        "ByzFL: Research Framework for Robust Federated Learning",
        "González, Guerraoui, Pinot, Rizk, Stephan, Taïani",
        "arXiv 2505.24802, 2025",
        "its library, model cnn_mnist",
    )
    cost: ClassVar[str] = "431,080 parameters for 28x28 images"

    mean: Annotated[float, Field(description="subtracted from the inputs; the default is that of MNIST")] = 0.1307
    deviation: Annotated[float, Field(gt=0, description="inputs are divided by it; the default is that of MNIST")] = (
        0.3081
    )

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, height, width = image_shape(self.name, info, smallest=16)
        flat = 50 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
        return nn.Sequential(
            Standardise(self.mean, self.deviation),
            nn.Conv2d(channels, 20, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, 500),
            nn.ReLU(),
            nn.Linear(500, output_width(self.name, info)),
        )
