"""One geometry per round: what rules, detectors and attacks need to know of the rows, each computed at most once.

Every rule that is equivariant to rotations only weighs clients: it reads inner products and returns ``n`` coefficients.
Mixing rows (averages of neighbours, of buckets) is a matrix of coefficients: the products of the mixed rows follow from
those of the rows, and the rows themselves are formed only if somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from fedsec import geometry


class RoundGeometry:
    """Rows of a round with their inner products about a robust centre.

    Attributes:
        n: number of rows.
        d: length of a row.
    """

    def __init__(self, rows: Tensor) -> None:
        """Take the rows.

        Args:
            rows: ``(n, d)``, finite; never changed.

        Raises:
            ValueError: the matrix is empty or not finite; the message names the rows.
        """
        geometry.check_rows(rows)
        self._base = rows
        self._mix: Tensor | None = None
        self._parent: RoundGeometry | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self._base.shape[0] if self._mix is None else self._mix.shape[0])

    @property
    def d(self) -> int:
        """Length of a row."""
        return int(self._base.shape[1])

    @cached_property
    def rows(self) -> Tensor:
        """``(n, d)``; of a mixture they are formed here."""
        return self._base if self._mix is None else geometry.combine_many(self._base, self._mix)

    @cached_property
    def centre(self) -> Tensor:
        """``(d,)`` coordinate-wise median of the rows (of the rows behind a mixture)."""
        return geometry.coordinate_median(self._base) if self._parent is None else self._parent.centre

    @cached_property
    def gram(self) -> Tensor:
        """Inner products about `centre`, ``(n, n)`` fp64."""
        if self._parent is None or self._mix is None:
            return geometry.gram(self._base, centre=self.centre)
        # the rows of a mixing matrix sum to 1, so it maps centred rows to centred rows
        products = self._mix @ self._parent.gram @ self._mix.t()
        return (products + products.t()) / 2

    @cached_property
    def squared_distances(self) -> Tensor:
        """Between all pairs, ``(n, n)`` fp64."""
        return geometry.squared_distances(self.gram)

    @cached_property
    def raw_gram(self) -> Tensor:
        """Inner products about the origin, ``(n, n)`` fp64."""
        if self._parent is None or self._mix is None:
            return geometry.gram(self._base)
        products = self._mix @ self._parent.raw_gram @ self._mix.t()
        return (products + products.t()) / 2

    @cached_property
    def norms(self) -> Tensor:
        """Euclidean norms, ``(n,)`` fp64."""
        if self._parent is None:
            return geometry.row_norms(self._base)
        return self.raw_gram.diagonal().clamp_min(0.0).sqrt()

    @cached_property
    def cosines(self) -> Tensor:
        """Of all pairs, ``(n, n)`` fp64 in [-1, 1]; 0 where a row is zero."""
        return geometry.cosines(self.raw_gram)

    def combine(self, coefficients: Tensor) -> Tensor:
        """``sum_i c_i x_i``: ``(n,)`` to ``(d,)``, with fp64 products and sums."""
        weights = coefficients.double()
        return geometry.combine(self._base, weights if self._mix is None else weights @ self._mix)

    def mixed(self, matrix: Tensor) -> RoundGeometry:
        """The geometry of ``matrix @ rows``.

        Args:
            matrix: ``(m, n)``; each row sums to 1.

        Raises:
            ValueError: it does not.
        """
        weights = matrix.to(device=self._base.device, dtype=torch.float64)
        if weights.dim() != 2 or weights.shape[1] != self.n:
            raise ValueError(f"a mixing matrix of {self.n} rows must be (m, {self.n}), got {tuple(weights.shape)}")
        sums = weights.sum(dim=1)
        if not torch.allclose(sums, torch.ones_like(sums), rtol=0.0, atol=1e-9):
            raise ValueError("each row of a mixing matrix must sum to 1")
        result = RoundGeometry.__new__(RoundGeometry)
        result._base = self._base
        result._mix = weights if self._mix is None else weights @ self._mix
        result._parent = self._root
        return result

    @property
    def _root(self) -> RoundGeometry:
        return self if self._parent is None else self._parent


class Weigher(Protocol):
    """The coefficient form of a rule."""

    def __call__(self, round_: RoundGeometry, /, **parameters: Any) -> Tensor:
        """Coefficients ``(n,)`` fp64 such that the rule's result is ``sum_i c_i x_i``."""


Rule = TypeVar("Rule", bound=Callable[..., Tensor])


def weighs(weigher: Callable[..., Tensor]) -> Callable[[Rule], Rule]:
    """Declare that a rule ``U -> (d,)`` only weighs rows, and how; `coefficients_of` finds it again."""

    def declare(rule: Rule) -> Rule:
        rule.coefficients = weigher  # type: ignore[attr-defined]
        return rule

    return declare


def coordinatewise(rule: Rule) -> Rule:
    """Declare that each coordinate of a rule's result depends on that coordinate of the rows alone."""
    rule.coordinatewise = True  # type: ignore[attr-defined]
    return rule


def coefficients_of(rule: Callable[..., Tensor]) -> Callable[[RoundGeometry], Tensor] | None:
    """The coefficient form of a rule (or of a ``functools.partial`` of one); ``None`` if it has none."""
    function, parameters = _bare(rule)
    weigher = getattr(function, "coefficients", None)
    return None if weigher is None else partial(weigher, **parameters)


def is_coordinatewise(rule: Callable[..., Tensor]) -> bool:
    """Whether a rule (or a ``functools.partial`` of one) was declared coordinate-wise."""
    return bool(getattr(_bare(rule)[0], "coordinatewise", False))


def _bare(rule: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    parameters: dict[str, Any] = {}
    while isinstance(rule, partial) and not rule.args:
        parameters = {**rule.keywords, **parameters}
        rule = rule.func
    return rule, parameters
