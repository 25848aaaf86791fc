"""Adversarial examples: pure functions on logits, and the attacks around them."""

from .gradient_ascent import fgsm, pgd
from .square import square

__all__ = ["fgsm", "pgd", "square"]
