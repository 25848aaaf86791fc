"""Networks and images that the tests of several attacks share."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedsec.data.images import read_idx


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def net_of(*parts, seed=0):
    net = nn.Sequential(*parts)
    for number, parameter in enumerate(net.parameters()):
        parameter.data = drawn(*parameter.shape, seed=seed + number) * 2 - 1
    return net


def small(seed=0, classes=3):
    return net_of(nn.Flatten(), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, classes), seed=seed)


def data_folder():
    """Where the public data is; the test is skipped where it lacks the reference networks or MNIST."""
    if not os.environ.get("FEDSEC_DATA"):
        pytest.skip("FEDSEC_DATA is not set")
    folder = Path(os.environ["FEDSEC_DATA"])
    if not (folder / "reference-models").is_dir() or not (folder / "mnist").is_dir():
        pytest.skip("MNIST or the reference networks are not under FEDSEC_DATA")
    return folder


def reference_network(name):
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    net.load_state_dict(load_file(data_folder() / "reference-models" / f"{name}.safetensors"))
    return net


def reference_record():
    return json.loads((data_folder() / "reference-models" / "results.json").read_text())


def digits(rows):
    """Test images of MNIST ``(b, 1, 28, 28)`` in [0, 1] and their classes ``(b,)``."""
    folder = data_folder() / "mnist"
    images = torch.from_numpy(read_idx(folder / "t10k-images-idx3-ubyte.gz", dataset="mnist", dimensions=3).copy())
    labels = torch.from_numpy(read_idx(folder / "t10k-labels-idx1-ubyte.gz", dataset="mnist", dimensions=1).copy())
    return images[rows][:, None].float() / 255, labels[rows].long()
