"""Counts of labels under local differential privacy: each client, or each person, reports one label of its own.

Every mechanism protects one label against everyone (``epsilon``-local differential privacy, any two labels alike), and
each has an unbiased estimator of the counts. Reports of several labels of one person add up their epsilons.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def randomised_response(labels: Tensor, *, classes: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """The true label with chance ``e^eps / (e^eps + C - 1)``, else one of the others, all alike (Warner 1965).

    Args:
        labels: ``(n,)`` int64 in ``[0, C)``.
        classes: ``C``, at least 2.
        epsilon: above 0.
        generator: draws, on the CPU.

    Returns:
        ``(n,)`` reports.
    """
    truth, _ = response_chances(classes=classes, epsilon=epsilon)
    honest = torch.rand(labels.shape, generator=generator, dtype=torch.float64) < truth
    other = torch.randint(1, classes, labels.shape, generator=generator)
    return torch.where(honest, labels, (labels + other) % classes)


def response_chances(*, classes: int, epsilon: float) -> tuple[float, float]:
    """Chances that the truth, and that any one other label is reported."""
    if classes < 2 or epsilon <= 0:
        raise ValueError(f"{classes} classes and epsilon {epsilon:g}: there must be two classes and a positive epsilon")
    other = 1 / (math.exp(epsilon) + classes - 1)
    return math.exp(epsilon) * other, other


def counts_from_responses(reports: Tensor, *, classes: int, epsilon: float) -> Tensor:
    """Unbiased estimate of how many hold each label, ``(C,)`` float64; may be negative."""
    truth, other = response_chances(classes=classes, epsilon=epsilon)
    seen = torch.bincount(reports, minlength=classes).double()
    return (seen - len(reports) * other) / (truth - other)


def rappor(labels: Tensor, *, classes: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """One bit per class, each flipped with chance ``1 / (e^(eps/2) + 1)`` (basic one-time RAPPOR, Erlingsson 2014).

    Two labels differ in two bits, so the likelihood ratio is at most ``e^eps``.

    Args:
        labels: ``(n,)`` int64 in ``[0, C)``.
        classes: ``C``.
        epsilon: above 0.
        generator: draws, on the CPU.

    Returns:
        ``(n, C)`` bool.
    """
    flip = _flip(epsilon)
    bits = torch.nn.functional.one_hot(labels, classes).bool()
    return bits ^ (torch.rand(bits.shape, generator=generator, dtype=torch.float64) < flip)


def counts_from_rappor(reports: Tensor, *, epsilon: float) -> Tensor:
    """Unbiased estimate of how many hold each label, ``(C,)`` float64; may be negative."""
    flip = _flip(epsilon)
    return (reports.double().sum(0) - len(reports) * flip) / (1 - 2 * flip)


def laplace_counts(labels: Tensor, *, classes: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """The histogram of one holder with Laplace noise, ``(C,)`` float64 (Dwork et al. 2006).

    Neighbours replace one label by another: two counts move by one, so the L1 sensitivity is 2 and the scale
    ``2 / epsilon``. The noise is a difference of two exponentials of a float generator (Mironov 2012 applies).

    Args:
        labels: ``(n,)`` int64 in ``[0, C)``, all of the holder.
        classes: ``C``.
        epsilon: above 0.
        generator: draws, on the CPU.
    """
    if epsilon <= 0:
        raise ValueError(f"epsilon {epsilon:g} is not positive")
    uniform = torch.rand(2, classes, generator=generator, dtype=torch.float64)
    exponential = -torch.log1p(-uniform)
    return torch.bincount(labels, minlength=classes).double() + (exponential[0] - exponential[1]) * (2 / epsilon)


def _flip(epsilon: float) -> float:
    if epsilon <= 0:
        raise ValueError(f"epsilon {epsilon:g} is not positive")
    return 1 / (math.exp(epsilon / 2) + 1)
