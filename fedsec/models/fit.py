"""What an architecture must know of a dataset, or the reason why it cannot read it."""

from __future__ import annotations

import math

from torch import nn

from fedsec.data.examples import DatasetInfo
from fedsec.errors import ConfigurationError, Problem

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def refuse(model: str, info: DatasetInfo, expected: str, hint: str = "") -> ConfigurationError:
    """The error of a model that cannot read a dataset."""
    shape = "x".join(map(str, info.input_shape))
    found = f"model {model} with dataset {info.name} ({info.modality}, {shape}, {info.task})"
    return ConfigurationError([Problem(path="federation.model", found=found, expected=expected, hint=hint)])


def image_shape(model: str, info: DatasetInfo, *, smallest: int) -> tuple[int, int, int]:
    """Channels, height and width.

    Raises:
        ConfigurationError: no images, or smaller than ``smallest`` pixels a side.
    """
    if len(info.input_shape) != 3 or info.vocabulary:
        raise refuse(model, info, "reads images (channels, height, width)", "Use model mlp.")
    channels, height, width = info.input_shape
    if min(height, width) < smallest:
        expected = f"reads images of at least {smallest}x{smallest} pixels"
        raise refuse(model, info, expected, "Use model mlp, or another convolutional model.")
    return channels, height, width


def features(model: str, info: DatasetInfo) -> int:
    """Numbers in one example.

    Raises:
        ConfigurationError: the inputs are tokens.
    """
    if info.vocabulary:
        raise refuse(model, info, "reads numbers, not tokens", "Use model char-rnn or transformer-encoder.")
    return math.prod(info.input_shape)


def output_width(model: str, info: DatasetInfo) -> int:
    """Outputs per example: one per class, or one for a regression.

    Raises:
        ConfigurationError: the task is ``next-token``.
    """
    if info.task == "regression":
        return 1
    if info.task != "classification" or len(info.classes) < 2:
        raise refuse(model, info, "does classification or regression", "Use model char-rnn or transformer-decoder.")
    return len(info.classes)
