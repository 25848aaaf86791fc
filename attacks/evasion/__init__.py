"""Adversarial examples: pure functions on logits, and the attacks around them."""

from .auto_attack import Cascade, Stage, auto_attack
from .auto_pgd import apgd
from .basic_iterative import bim, fgm
from .carlini_wagner import carlini_wagner
from .deepfool import deepfool
from .embedding import embedding_pgd
from .fab import fab
from .gradient_ascent import fgsm, pgd
from .hop_skip_jump import hop_skip_jump
from .momentum import momentum
from .square import square

__all__ = [
    "Cascade",
    "Stage",
    "apgd",
    "auto_attack",
    "bim",
    "carlini_wagner",
    "deepfool",
    "embedding_pgd",
    "fab",
    "fgm",
    "fgsm",
    "hop_skip_jump",
    "momentum",
    "pgd",
    "square",
]
