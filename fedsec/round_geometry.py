"""One geometry per round: what rules, detectors and attacks need to know of the rows, each computed at most once.

Every rule that is equivariant to rotations only weighs clients: it reads inner products and returns ``n`` coefficients.
Mixing rows (averages of neighbours, of buckets, clipped rows) is a matrix of coefficients: the products of the mixed
rows follow from those of the rows, and the rows themselves are formed only if somebody asks for them.

A rule ``U -> (d,)`` declares that it is a set of coefficients (`weighs`) or acts on each coordinate alone
(`coordinatewise`), a pre-aggregator ``U -> (m, d)`` that it is a matrix (`mixes`). Whoever combines rules, or searches
for the worst that can be sent to one, then works on ``n x n`` numbers instead of ``n x d``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedsec import geometry

_UNIT = 1e-9
"""Rows of a mixing matrix whose sum is this close to 1 are averages."""


class RoundGeometry:
    """Rows of a round with their inner products; of a mixture, and of bare products, only the latter exist at first.

    Attributes:
        n: number of rows.
        d: length of a row.
    """

    def __init__(self, rows: Tensor) -> None:
        """Take the rows.

        Args:
            rows: ``(n, d)``, finite; never changed.

        Raises:
            ValueError: the matrix is empty or not finite; the message names the rows. A large round is looked at when
                it is first read, because products tell as well: a pass over it saved.
        """
        if rows.dim() != 2 or not rows.is_floating_point() or not rows.numel():
            geometry.check_rows(rows)
        self._base: Tensor | None = rows
        self._mix: Tensor | None = None
        self._root = self
        self._finite = False
        if not geometry.coarse(rows):
            self._check()

    @classmethod
    def of_products(cls, raw_gram: Tensor) -> RoundGeometry:
        """The geometry of rows of which only the inner products about the origin are known.

        It answers what follows from them: `gram`, `raw_gram`, `squared_distances`, `norms`, `cosines`, `mixed`.

        Args:
            raw_gram: ``(n, n)`` symmetric, finite.

        Raises:
            ValueError: it is not square or not finite.
        """
        if raw_gram.dim() != 2 or raw_gram.shape[0] != raw_gram.shape[1] or not raw_gram.shape[0]:
            raise ValueError(f"products of n rows must be (n, n), got {tuple(raw_gram.shape)}")
        if not bool(torch.isfinite(raw_gram).all()):
            raise ValueError("products hold NaN or infinity")
        result = cls.__new__(cls)
        result._base = None
        result._mix = None
        result._root = result
        result._finite = True
        result.raw_gram = raw_gram.to(torch.float64)
        return result

    @property
    def n(self) -> int:
        """Number of rows."""
        if self._mix is not None:
            return int(self._mix.shape[0])
        return int((self.raw_gram if self._base is None else self._base).shape[0])

    @property
    def d(self) -> int:
        """Length of a row."""
        return int((self._known if self._base is None else self._base).shape[1])

    @property
    def device(self) -> torch.device:
        """Where products and coefficients live."""
        return (self.raw_gram if self._base is None else self._base).device

    @cached_property
    def rows(self) -> Tensor:
        """``(n, d)``; of a mixture they are formed here."""
        return self._known if self._mix is None else geometry.combine_many(self._known, self._mix)

    @cached_property
    def centre(self) -> Tensor:
        """``(d,)`` a point among the rows (those behind a mixture) that fewer than half of them cannot move far."""
        return geometry.central_row(self._known, norms=self.norms) if self._root is self else self._root.centre

    @cached_property
    def gram(self) -> Tensor:
        """Inner products about a point that fewer than half of the rows cannot move far, ``(n, n)`` fp64.

        Which point that is, is not said: coefficients of sum 1 and differences of such do not depend on it.
        """
        if self._root is not self and self._root._base is not None and self._averages:
            return _congruent(self._mix, self._root.gram)
        if self._base is not None and self._mix is None:
            if self._far is None:
                return geometry.gram_about(self._known, self.centre)
            return geometry.about_central_row(self._far)
        return geometry.about_central_row(self.raw_gram)

    @cached_property
    def squared_distances(self) -> Tensor:
        """Between all pairs, ``(n, n)`` fp64."""
        # no digit is lost about the origin where rows lie as far from each other
        plain = self._base is not None and self._mix is None and self._far is not None
        return geometry.squared_distances(self.raw_gram if plain else self.gram)

    @cached_property
    def raw_gram(self) -> Tensor:
        """Inner products about the origin, ``(n, n)`` fp64."""
        if self._mix is not None:
            return _congruent(self._mix, self._root.raw_gram)
        return self._far if self._far is not None else geometry.gram(self._known)

    @cached_property
    def norms(self) -> Tensor:
        """Euclidean norms, ``(n,)`` fp64."""
        if self._base is not None and self._mix is None and self.__dict__.get("_far") is None:
            return geometry.row_norms(self._known)
        return self.raw_gram.diagonal().clamp_min(0.0).sqrt()

    @cached_property
    def cosines(self) -> Tensor:
        """Of all pairs, ``(n, n)`` fp64 in [-1, 1]; 0 where a row is zero."""
        return geometry.cosines(self.raw_gram)

    def combine(self, coefficients: Tensor) -> Tensor:
        """``sum_i c_i x_i``: ``(n,)`` to ``(d,)``, in the precision of the rows."""
        weights = coefficients.double()
        return geometry.combine(self._known, weights if self._mix is None else weights @ self._mix)

    def mixed(self, matrix: Tensor) -> RoundGeometry:
        """The geometry of ``matrix @ rows``.

        Where each row of the matrix sums to 1, products about the centre follow from products about the centre, and
        what all rows have in common costs no digit; other matrices (clipping) go through products about the origin.

        Args:
            matrix: ``(m, n)``, finite.

        Raises:
            ValueError: it has another shape, or is not finite.
        """
        known = self._root.raw_gram if self._base is None else self._base
        weights = matrix.to(device=known.device, dtype=torch.float64)
        if weights.dim() != 2 or weights.shape[1] != self.n or not weights.shape[0]:
            raise ValueError(f"a mixing matrix of {self.n} rows must be (m, {self.n}), got {tuple(weights.shape)}")
        if not bool(torch.isfinite(weights).all()):
            raise ValueError("a mixing matrix must be finite")
        result = RoundGeometry.__new__(RoundGeometry)
        result._base = self._base
        result._mix = weights if self._mix is None else weights @ self._mix
        result._root = self._root
        result._finite = True
        return result

    @cached_property
    def _far(self) -> Tensor | None:
        if self._base is None or not geometry.coarse(self._base):
            return None
        products = geometry.far_gram(self._base)
        # rows whose squares are finite are
        self._root._finite = self._root._finite or products is not None
        return products

    @property
    def _known(self) -> Tensor:
        if self._base is None:
            raise ValueError("this geometry was made of products: it has no rows")
        self._root._check()
        return self._base

    def _check(self) -> None:
        # a finite sum has finite terms
        if self._base is not None and not self._finite and not bool(torch.isfinite(self._base.detach().sum())):
            geometry.check_rows(self._base)
        self._finite = True

    @property
    def _averages(self) -> bool:
        return self._mix is not None and bool(((self._mix.sum(dim=1) - 1.0).abs() <= _UNIT).all())


def _congruent(mix: Tensor | None, products: Tensor) -> Tensor:
    if mix is None:
        return products
    result = mix @ products @ mix.t()
    return (result + result.t()) / 2


Rule = TypeVar("Rule", bound=Callable[..., Tensor])
Form = Callable[[RoundGeometry], Tensor]


def weighs(form: Callable[..., Tensor], *, without: tuple[str, ...] = ()) -> Callable[[Rule], Rule]:
    """Declare that a rule ``U -> (d,)`` only weighs rows, and how; `coefficients_of` finds it again.

    Args:
        form: takes a `RoundGeometry` and the parameters of the rule; returns ``(n,)`` fp64 coefficients ``c`` such that
            the rule's result is ``sum_i c_i x_i``.
        without: parameters of the rule that the form does not have; a rule in which they are set has no form.
    """
    return _declare("coefficients", form, without)


def mixes(form: Callable[..., Tensor], *, without: tuple[str, ...] = ()) -> Callable[[Rule], Rule]:
    """Declare that a pre-aggregator ``U -> (m, d)`` is ``W @ U``; the form returns ``W (m, n)``, as in `weighs`."""
    return _declare("matrix", form, without)


def coordinatewise(rule: Rule) -> Rule:
    """Declare that each coordinate of a rule's result depends on that coordinate of the rows alone."""
    rule.coordinatewise = True  # type: ignore[attr-defined]
    return rule


def coefficients_of(rule: Callable[..., Tensor]) -> Form | None:
    """The coefficient form of a rule (or of a ``functools.partial`` of one); ``None`` if it has none."""
    return _find("coefficients", rule)


def matrix_of(step: Callable[..., Tensor]) -> Form | None:
    """The matrix form of a pre-aggregator (or of a ``functools.partial`` of one); ``None`` if it has none."""
    return _find("matrix", step)


def is_coordinatewise(rule: Callable[..., Tensor]) -> bool:
    """Whether a rule (or a ``functools.partial`` of one) was declared coordinate-wise."""
    return bool(getattr(_bare(rule)[0], "coordinatewise", False))


def chain(*steps: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """Pre-aggregators, then a rule, as one rule ``U -> (d,)``; it has a coefficient form if all of them have theirs.

    Example::

        chain(partial(nearest_neighbor_mixing, f=2), partial(krum, f=2))

    Steps that are matrices are applied as matrices: rows between them are formed only for a rule that has no
    coefficient form.

    Args:
        steps: functions of the rows alone (bind parameters with ``functools.partial``), the rule last.

    Raises:
        ValueError: there is no step.
    """
    if not steps:
        raise ValueError("a chain needs a rule")
    *before, rule = steps
    matrices = [matrix_of(step) for step in before]
    form = coefficients_of(rule)

    def chained(U: Tensor) -> Tensor:
        round_ = RoundGeometry(U)
        for step, matrix in zip(before, matrices, strict=True):
            round_ = RoundGeometry(step(round_.rows)) if matrix is None else round_.mixed(matrix(round_))
        return rule(round_.rows) if form is None else round_.combine(form(round_))

    found = [matrix for matrix in matrices if matrix is not None]
    if form is not None and len(found) == len(before):
        chained.coefficients = (partial(_chained, found, form), ())  # type: ignore[attr-defined]
    chained.steps = steps  # type: ignore[attr-defined]
    return chained


def steps_of(rule: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], ...]:
    """What a `chain` was made of, the rule last; another rule is its own only step."""
    steps: tuple[Callable[..., Tensor], ...] = getattr(rule, "steps", (rule,))
    return steps


def _chained(matrices: list[Form], form: Form, round_: RoundGeometry) -> Tensor:
    passed = []
    for matrix in matrices:
        passed.append(matrix(round_))
        round_ = round_.mixed(passed[-1])
    weights = form(round_)
    for mix in reversed(passed):
        weights = weights @ mix
    return weights


def _declare(name: str, form: Callable[..., Tensor], without: tuple[str, ...]) -> Callable[[Rule], Rule]:
    def declare(rule: Rule) -> Rule:
        setattr(rule, name, (form, without))
        return rule

    return declare


def _find(name: str, rule: Callable[..., Tensor]) -> Form | None:
    function, parameters = _bare(rule)
    form, without = getattr(function, name, (None, ()))
    if form is None or any(parameters.get(parameter) is not None for parameter in without):
        return None
    return partial(form, **{key: value for key, value in parameters.items() if key not in without})


def _bare(rule: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    parameters: dict[str, Any] = {}
    while isinstance(rule, partial) and not rule.args:
        parameters = {**rule.keywords, **parameters}
        rule = rule.func
    return rule, parameters
