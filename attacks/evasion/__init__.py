"""Adversarial examples: pure functions on logits, and the attacks around them."""

from .gradient_ascent import fgsm, pgd

__all__ = ["fgsm", "pgd"]
