"""Adversarial examples: pure functions on logits, and the attacks around them."""

from .auto_pgd import apgd
from .basic_iterative import bim, fgm
from .deepfool import deepfool
from .fab import fab
from .gradient_ascent import fgsm, pgd
from .hop_skip_jump import hop_skip_jump
from .square import square

__all__ = ["apgd", "bim", "deepfool", "fab", "fgm", "fgsm", "hop_skip_jump", "pgd", "square"]
