"""The function behind ``fedsec repro inverting-gradients``, on a few targets and evaluations."""

from dataclasses import replace

import pytest

from fedsec.attacks.inversion import image_reproductions as reproductions
from fedsec.data.cache import data_root
from fedsec.data.images import CIFAR10
from fedsec.errors import FedsecError
from fedsec.models.convolutional import ConvNet
from fedsec.reproductions.catalogue import load


def test_every_figure_is_measured_and_an_untrained_convnet_gives_images_away(monkeypatch) -> None:
    try:
        CIFAR10().load(data_root())
    except FedsecError as error:
        pytest.skip(str(error))
    quick = {name: replace(recipe, evaluations=10) for name, recipe in reproductions.RECIPES.items()}
    monkeypatch.setattr(reproductions, "RECIPES", quick | {"convnet": replace(quick["convnet"], evaluations=80)})
    monkeypatch.setattr(reproductions, "MODELS", {**reproductions.MODELS, "convnet": ConvNet(widths=(16, 16))})
    monkeypatch.setattr(reproductions, "TARGETS", 3)
    monkeypatch.setattr(reproductions, "TRAINED_ON", 64)
    found = reproductions.inverting_gradients()
    assert {figure.read for figure in load("inverting-gradients").recipe.figures} == set(found)
    assert found["convnet | untrained | psnr"][0] > 14
    assert found["convnet | untrained | identifiability"][0] == 1
