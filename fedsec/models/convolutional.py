"""Convolutional models for small images.

Max-pooling stands before the ReLU: both are monotone, so the result is the same, and a quarter of the elements
goes through the ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from fedsec.data.examples import DatasetInfo
from fedsec.models.fit import ACTIVATIONS, image_shape, output_width
from fedsec.models.source import ModelSource
from fedsec.threat import Paper


def normalisation(kind: str, channels: int, *, groups: int = 8) -> nn.Module:
    """``none``, ``group`` (at most ``groups`` groups that divide the channels) or ``batch``."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(max(g for g in range(1, groups + 1) if channels % g == 0), channels)
    return nn.Identity()


@dataclass(frozen=True, kw_only=True)
class LeNet(ModelSource):
    """LeNet-5 with max-pooling and ReLU, its first layer padded for 28x28 images: 61,706 parameters there."""

    name: ClassVar[str] = "lenet"
    summary: ClassVar[str] = "LeNet-5 with max-pooling and ReLU"
    family: ClassVar[str] = "convolutional"
    paper: ClassVar[Paper] = Paper(
        "Gradient-Based Learning Applied to Document Recognition",
        "LeCun, Bottou, Bengio, Haffner",
        "Proceedings of the IEEE 86(11), 1998",
        "Section II.B",
    )
    cost: ClassVar[str] = "61,706 parameters for 28x28 images"

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, height, width = image_shape(self.name, info, smallest=12)
        flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        return nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(6, 16, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, output_width(self.name, info)),
        )


@dataclass(frozen=True, kw_only=True)
class LeNetSigmoid(ModelSource):
    """The twice differentiable LeNet of the gradient-inversion literature: strides and sigmoids, no pooling."""

    name: ClassVar[str] = "lenet-sigmoid"
    summary: ClassVar[str] = "LeNet with sigmoids and strides instead of pooling, as gradient inversion is studied on"
    family: ClassVar[str] = "convolutional"
    paper: ClassVar[Paper] = Paper(
        "Deep Leakage from Gradients", "Zhu, Liu, Han", "NeurIPS 2019", "Section 4.1 and the authors' code"
    )
    cost: ClassVar[str] = "13,426 parameters for 28x28 images"

    wide_init: Annotated[
        bool, Field(description="draw every parameter from U(-0.5, 0.5), as the paper's experiments do")
    ] = True

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, height, width = image_shape(self.name, info, smallest=4)
        layers: list[nn.Module] = []
        for stride in (2, 2, 1):
            layers += [nn.Conv2d(channels, 12, 5, padding=2, stride=stride), nn.Sigmoid()]
            channels, height, width = 12, -(-height // stride), -(-width // stride)
        flat = channels * height * width
        module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, output_width(self.name, info)))
        if self.wide_init:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.uniform_(-0.5, 0.5)
        return module


@dataclass(frozen=True, kw_only=True)
class ConvNet(ModelSource):
    """Blocks of a 3x3 convolution, a normalisation, an activation and a pooling that halves the image."""

    name: ClassVar[str] = "convnet"
    summary: ClassVar[str] = "Small convolutional network: blocks of 3x3 convolution, normalisation and pooling"
    family: ClassVar[str] = "convolutional"
    cost: ClassVar[str] = "50,186 parameters for 28x28 images and widths 32, 64"

    widths: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, description="channels of each block")
    ] = (32, 64)
    activation: Annotated[Literal["relu", "sigmoid", "tanh"], Field(description="after each convolution")] = "relu"
    norm: Annotated[Literal["none", "group", "batch"], Field(description="normalisation of each block")] = "none"
    dropout: Annotated[float, Field(ge=0, lt=1, description="probability of dropping a feature of the last")] = 0.0

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, height, width = image_shape(self.name, info, smallest=2 ** len(self.widths))
        layers: list[nn.Module] = []
        for filters in self.widths:
            layers += [
                nn.Conv2d(channels, filters, 3, padding=1),
                normalisation(self.norm, filters),
                nn.MaxPool2d(2),
                ACTIVATIONS[self.activation](),
            ]
            channels, height, width = filters, height // 2, width // 2
        layers.append(nn.Flatten())
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(channels * height * width, output_width(self.name, info)))


@dataclass(frozen=True, kw_only=True)
class McMahanCNN(ModelSource):
    """The CNN of the paper that named federated averaging: 1,663,370 parameters for 28x28 images and 10 classes."""

    name: ClassVar[str] = "cnn"
    summary: ClassVar[str] = "The convolutional network of the paper that introduced federated averaging"
    family: ClassVar[str] = "convolutional"
    paper: ClassVar[Paper] = Paper(
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        "McMahan, Moore, Ramage, Hampson, Agüera y Arcas",
        "AISTATS 2017",
        "Section 3 (the CNN)",
    )
    cost: ClassVar[str] = "1,663,370 parameters for 28x28 images"

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, height, width = image_shape(self.name, info, smallest=4)
        return nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512),
            nn.ReLU(),
            nn.Linear(512, output_width(self.name, info)),
        )


@dataclass(frozen=True, kw_only=True)
class AlexNet(ModelSource):
    """AlexNet for small images: its five convolutions with 3x3 kernels, its pools and its two hidden layers.

    The paper's kernels and strides are for 224x224 images. ``width=64`` and ``hidden=4096`` are the paper's sizes.
    """

    name: ClassVar[str] = "alexnet"
    summary: ClassVar[str] = "AlexNet with the kernels and strides of small images"
    family: ClassVar[str] = "convolutional"
    paper: ClassVar[Paper] = Paper(
        "ImageNet Classification with Deep Convolutional Neural Networks",
        "Krizhevsky, Sutskever, Hinton",
        "NeurIPS 2012",
        "Section 3.5",
    )
    cost: ClassVar[str] = "grows with width squared and hidden squared"

    width: Annotated[int, Field(ge=1, description="channels of the first convolution")] = 32
    hidden: Annotated[int, Field(ge=1, description="units of each hidden layer")] = 256
    dropout: Annotated[float, Field(ge=0, lt=1, description="probability of dropping a hidden unit")] = 0.5

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        channels, height, width = image_shape(self.name, info, smallest=8)
        layers: list[nn.Module] = []
        for filters, pool in (
            (self.width, True),
            (3 * self.width, True),
            (6 * self.width, False),
            (4 * self.width, False),
            (4 * self.width, True),
        ):
            layers.append(nn.Conv2d(channels, filters, 3, padding=1))
            if pool:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            layers.append(nn.ReLU())
            channels = filters
        return nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Dropout(self.dropout),
            nn.Linear(channels * height * width, self.hidden),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, output_width(self.name, info)),
        )
