"""Stands in for torchvision while breaching is imported: its packages name it, the attacks measured here never use it.

Only names that breaching 0.1.2 touches at import exist; a call of any of them raises. Nothing of breaching is replaced:
its attackers, objectives, regularisers, optimizers and models are its own.
"""

import sys
import types

from torch import nn


class Missing(nn.Module):
    """Raises when somebody really wants it."""

    def __init__(self, *given, **named):
        raise NotImplementedError("torchvision is not installed in the environment of the comparison")


def install():
    """Put the stand-in where ``import torchvision`` finds it."""

    def module(name, **names):
        made = types.ModuleType(name)
        made.__dict__.update(names)
        sys.modules[name] = made
        return made

    densenet = module("torchvision.models.densenet", _DenseLayer=Missing)
    archive = module("torchvision.datasets.utils", download_and_extract_archive=Missing)
    module(
        "torchvision",
        models=module("torchvision.models", densenet=densenet),
        datasets=module("torchvision.datasets", utils=archive, CIFAR10=Missing, CIFAR100=Missing, ImageNet=Missing),
        transforms=module("torchvision.transforms", Compose=Missing),
    )
