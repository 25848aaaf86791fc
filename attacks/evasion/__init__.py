"""Adversarial examples: pure functions on logits, and the attacks around them."""

from .basic_iterative import bim, fgm
from .fab import fab
from .gradient_ascent import fgsm, pgd
from .square import square

__all__ = ["bim", "fab", "fgm", "fgsm", "pgd", "square"]
