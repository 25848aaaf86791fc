"""Models of linear layers alone; cohorts of them train as batched matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from fedsec.data.examples import DatasetInfo
from fedsec.models.fit import ACTIVATIONS, features, output_width, refuse
from fedsec.models.source import ModelSource
from fedsec.threat import Paper


@dataclass(frozen=True, kw_only=True)
class Linear(ModelSource):
    """One linear layer: linear regression, or softmax regression for classes."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "One linear layer: linear regression, or softmax regression if the task has classes"
    family: ClassVar[str] = "dense"
    cost: ClassVar[str] = "features x outputs parameters"

    bias: Annotated[bool, Field(description="whether the layer has a bias")] = True

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        layer = nn.Linear(features(self.name, info), output_width(self.name, info), bias=self.bias)
        return nn.Sequential(nn.Flatten(), layer)


@dataclass(frozen=True, kw_only=True)
class Softmax(Linear):
    """Softmax regression; refuses a regression task."""

    name: ClassVar[str] = "softmax"
    summary: ClassVar[str] = "Softmax (multinomial logistic) regression"

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        if info.task != "classification":
            raise refuse(self.name, info, "does classification", "Use model linear.")
        return super().build(info)


@dataclass(frozen=True, kw_only=True)
class MLP(ModelSource):
    """A multilayer perceptron. ``hidden=(200, 200)`` is the 2NN of McMahan et al. 2017."""

    name: ClassVar[str] = "mlp"
    summary: ClassVar[str] = "Multilayer perceptron with any number of hidden layers"
    family: ClassVar[str] = "dense"
    paper: ClassVar[Paper] = Paper(
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        "McMahan, Moore, Ramage, Hampson, Agüera y Arcas",
        "AISTATS 2017",
        "Section 3 (the 2NN)",
    )
    cost: ClassVar[str] = "159,010 parameters for 28x28 images and 200 hidden units"

    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(description="units of each hidden layer")] = (200,)
    activation: Annotated[Literal["relu", "sigmoid", "tanh"], Field(description="after each hidden layer")] = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1, description="probability of dropping a hidden unit")] = 0.0

    def build(self, info: DatasetInfo) -> nn.Module:
        """See `ModelSource.build`."""
        width = features(self.name, info)
        layers: list[nn.Module] = [nn.Flatten()]
        for units in self.hidden:
            layers += [nn.Linear(width, units), ACTIVATIONS[self.activation]()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            width = units
        return nn.Sequential(*layers, nn.Linear(width, output_width(self.name, info)))
