"""Every registered model on data that it reads, small enough for a test."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.models.convolutional import AlexNet, ConvNet, LeNet, LeNetSigmoid, McMahanCNN
from fedsec.models.dense import MLP, Linear, Softmax
from fedsec.models.flat import FlatModel
from fedsec.models.mnist_cnn import CnnMnist
from fedsec.models.opacus_cnn import OpacusCNN
from fedsec.models.recurrent import CharRNN
from fedsec.models.residual import ResNet
from fedsec.models.source import ModelSource
from fedsec.models.strided_cnn import StridedCNN
from fedsec.models.transformers import TransformerDecoder, TransformerEncoder
from fedsec.randomness import generator


def info(task="classification", shape=(1, 12, 12), vocabulary=0, classes=3):
    return DatasetInfo(
        name="toy", summary="", task=task, input_shape=shape, vocabulary=vocabulary,
        classes=tuple(map(str, range(classes))) if task == "classification" else (),
        bounds=None if vocabulary else (0.0, 1.0), modality="text" if vocabulary else "image",
    )  # fmt: skip


IMAGE = info()
TABLE = info(shape=(6,))
REGRESSION = info(task="regression", shape=(6,))
SENTENCE = info(shape=(7,), vocabulary=11)
NEXT = info(task="next-token", shape=(6,), vocabulary=11)

ZOO: dict[str, tuple[ModelSource, DatasetInfo]] = {
    "linear": (Linear(), IMAGE),
    "linear regression": (Linear(), REGRESSION),
    "softmax": (Softmax(bias=False), TABLE),
    "mlp": (MLP(hidden=(9, 7), activation="tanh"), IMAGE),
    "mlp dropout": (MLP(hidden=(16,), dropout=0.4), IMAGE),
    "mlp sigmoid regression": (MLP(hidden=(5,), activation="sigmoid"), REGRESSION),
    "lenet": (LeNet(), IMAGE),
    "lenet-sigmoid": (LeNetSigmoid(), IMAGE),
    "convnet": (ConvNet(widths=(4,), norm="group", dropout=0.3), info(shape=(3, 8, 8))),
    "convnet batch norm": (ConvNet(widths=(4, 6), norm="batch", activation="sigmoid"), info(shape=(3, 8, 8))),
    "cnn": (McMahanCNN(), info(shape=(1, 8, 8))),
    "cnn-mnist": (CnnMnist(), info(shape=(1, 16, 16))),
    "opacus-cnn": (OpacusCNN(), info(shape=(1, 16, 16))),
    "strided-cnn": (StridedCNN(width=3, hidden=5), info(shape=(1, 10, 8))),
    "resnet": (ResNet(width=4), info(shape=(3, 8, 8))),
    "resnet batch norm": (ResNet(width=4, norm="batch"), info(shape=(3, 8, 8))),
    "alexnet": (AlexNet(width=4, hidden=8), info(shape=(3, 8, 8))),
    "char-rnn": (CharRNN(width=6, layers=2, dropout=0.2), NEXT),
    "char-rnn gru": (CharRNN(width=6, cell="gru"), SENTENCE),
    "transformer-encoder": (TransformerEncoder(width=8, heads=2, layers=1, dropout=0.1), SENTENCE),
    "transformer-decoder": (TransformerDecoder(width=8, heads=2, layers=1), NEXT),
}


def build(source: ModelSource, data: DatasetInfo, seed: int = 0) -> FlatModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FlatModel.of(source.build(data), task=data.task, name=source.name)


def examples(data: DatasetInfo, n: int, seed: int = 0) -> Examples:
    draw = generator("examples", seed)
    if data.vocabulary:
        x = torch.randint(0, data.vocabulary, (n, *data.input_shape), generator=draw)
    else:
        x = torch.rand((n, *data.input_shape), generator=draw)
    if data.task == "regression":
        return Examples(x, torch.randn(n, generator=draw))
    if data.task == "next-token":
        return Examples(x, torch.randint(0, data.vocabulary, x.shape, generator=draw))
    return Examples(x, torch.randint(0, len(data.classes), (n,), generator=draw))


@dataclass(frozen=True)
class Perturb:
    """A hook that draws, passes twice through the model in train mode and edits gradients."""

    scale: float

    def local(self, step):
        def wrapped(lanes, x, y):
            x = (x + self.scale * lanes.uniform(tuple(x.shape[1:]), salt=3).to(x.dtype)).detach().requires_grad_()
            (slope,) = torch.autograd.grad(lanes.losses(x, y, train=True).sum(), x)
            gradients = step(lanes, (x + self.scale * slope.sign()).detach(), y)
            return tuple(0.5 * g for g in gradients)

        return wrapped


@dataclass(frozen=True)
class Fail:
    how: str

    def local(self, step):
        def wrapped(lanes, x, y):
            if self.how == "die":
                os._exit(3)
            raise RuntimeError("the hook broke")

        return wrapped
