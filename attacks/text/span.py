"""The space that a layer's inputs span, read off the gradient of its weight, and whether a vector lies in it.

A linear layer ``z = W h`` of ``n`` inputs has ``dL/dW = sum_p delta_p h_p^T``: its rows lie in the span of the inputs,
which is all of it while their number stays below the width (Petrov et al. 2024, theorem 3.1). A vector from outside is
in it with probability 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 2.0**-24
"""Half a unit of rounding of float32."""
EDGE = 1.5
"""Singular values count from this many times the largest one that noise alone makes."""
KAPPA = 5.0
"""A vector is in the span up to this many times the error that noise causes."""
ARITHMETIC = 2e-6
"""Relative error of inputs that the client computed in float32."""


@dataclass(frozen=True)
class Span:
    """The row space of an observed gradient.

    Attributes:
        basis: ``(r, w)`` orthonormal directions.
        strength: ``(r,)`` singular values.
        noise: standard deviation of one entry of what was observed.
    """

    basis: Tensor
    strength: Tensor
    noise: float

    @property
    def rank(self) -> int:
        """Dimensions."""
        return len(self.basis)

    @property
    def full(self) -> bool:
        """Whether every vector is in it (layer norm takes one dimension away), so that the check says nothing."""
        return self.rank >= self.basis.shape[1] - 1

    def distance(self, vectors: Tensor) -> Tensor:
        """Distance of ``(..., w)`` from the span, as a share of each vector's length."""
        units = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        apart: Tensor = (units - (units @ self.basis.mT) @ self.basis).norm(dim=-1)
        return apart

    def error(self, vectors: Tensor) -> Tensor:
        """The distance that noise is expected to put between the span and a vector in it, to first order.

        A direction with singular value s is turned out of the true span by ``noise sqrt(w - r) / s``.
        """
        units = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        left = (self.basis.shape[1] - self.rank) ** 0.5
        turned: Tensor = self.noise * left * ((units @ self.basis.mT) / self.strength).norm(dim=-1)
        return turned

    def contains(self, vectors: Tensor, *, tolerance: float) -> Tensor:
        """Whether each of ``(..., w)`` is in the span: within the noise, or within ``tolerance`` in any case.

        The tolerance covers directions that are weaker than the noise and were cut off.
        """
        limit = (KAPPA * self.error(vectors) + ARITHMETIC).clamp_min(tolerance)
        return self.distance(vectors) <= limit


def rounding_noise(gradient: Tensor, weight: Tensor) -> float:
    """Standard deviation of the rounding of one entry of ``local - global``, and of the gradient itself.

    Args:
        gradient: ``(m, w)`` the observed update.
        weight: ``(m, w)`` the global weight, whose size sets the unit of rounding.
    """
    stored = ROUNDING * float(weight.double().square().mean().sqrt()) / 3**0.5
    computed = 4 * ROUNDING * float(gradient.double().square().mean().sqrt())
    return float((stored**2 + computed**2) ** 0.5)


def span_of(gradient: Tensor, *, noise: float, most: int = 0) -> Span:
    """The span of the rows of a gradient ``(m, w)``; singular values below the noise do not count.

    Args:
        gradient: in float64.
        noise: standard deviation of an entry; the largest singular value of such noise alone is
            ``noise (sqrt(m) + sqrt(w))``.
        most: dimensions at the most, 0 for no limit; the strongest are kept.
    """
    height, width = gradient.shape
    found = torch.linalg.svd(gradient.double(), full_matrices=False)
    edge = EDGE * noise * (height**0.5 + width**0.5)
    kept: Tensor = found.S[found.S.gt(edge)]
    rank = len(kept)
    rank = min(rank, most) if most else rank
    return Span(found.Vh[:rank], found.S[:rank], noise)
