"""How far a rule is moved by copies of one vector, for many vectors on a few lines: the objective of a search.

Three forms of a rule are cheap to ask again and again: coefficients need the Gram matrix of rows and directions alone;
coordinate-wise rules are additive over coordinates, so a sample of them tells; mixing matrices before a coordinate-wise
rule need both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fedsec import geometry
from fedsec.randomness import generator
from fedsec.round_geometry import RoundGeometry, coefficients_of, is_coordinatewise, matrix_of, steps_of

from .vectors import deviation_of

Rule = Callable[[Tensor], Tensor]

ROUGH, SAMPLE = 3_000, 20_000
"""Coordinates that stand for all of them: on the grid, and where a peak is narrowed down."""
_UNIFORM = 0.1
"""Share of the sample that does not look at how large coordinates are."""
_COLUMNS = 1 << 18
"""Columns that a coordinate-wise rule is given at once."""


class Line:
    """Rounds ``[H; copies of mean + gamma p]`` for a few directions ``p``.

    Attributes:
        rows: ``(h, d)`` honest updates.
        mean: ``(d,)`` of them.
        pushes: directions, ``(d,)`` each.
        copies: malicious rows.
    """

    def __init__(self, rows: Tensor, mean: Tensor, pushes: tuple[Tensor, ...], *, copies: int) -> None:
        self.rows, self.mean, self.pushes, self.copies = rows, mean, pushes, copies

    def point(self, direction: int, gamma: float) -> Tensor:
        """``mean + gamma p``, ``(d,)``."""
        return self.mean + gamma * self.pushes[direction]

    def measured(self, rule: Rule) -> Callable[[Tensor], float]:
        """The damage of a vector, on the rows themselves."""

        def damage(vector: Tensor) -> float:
            off = rule(torch.cat([self.rows, vector.expand(self.copies, -1)])).double() - self.mean.double()
            return float(torch.linalg.vector_norm(off))

        return damage

    @cached_property
    def products(self) -> Tensor:
        """Inner products of ``x_i - mean``, the mean and the directions, ``(h + 1 + directions)`` squared, fp64."""
        h = self.rows.shape[0]
        others = torch.stack([self.mean, *self.pushes])
        size = h + len(others)
        total = torch.zeros(size, size, dtype=torch.float64, device=self.rows.device)
        for span in geometry.spans(self.rows.shape[1]):
            middle = self.mean[span].double()
            block = torch.cat([self.rows[:, span].double() - middle, others[:, span].double()])
            total.addmm_(block, block.t())
        return total

    def rounds(self, direction: int, gammas: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Rounds without their rows.

        Returns:
            Their rows as coefficients on what `products` are of, ``(m, h + copies, h + 1 + directions)``, and the rows'
            inner products, ``(m, h + copies, h + copies)``, both fp64.
        """
        h, device = self.rows.shape[0], self.rows.device
        rows = torch.zeros(len(gammas), h + 1, h + 1 + len(self.pushes), dtype=torch.float64, device=device)
        rows[:, :h, :h] = torch.eye(h, dtype=torch.float64, device=device)
        rows[:, :, h] = 1.0
        rows[:, h, h + 1 + direction] = torch.tensor(gammas, dtype=torch.float64, device=device)
        products = rows @ self.products @ rows.mT
        products = (products + products.mT) / 2
        # the copies are copied here, so that they are equal to the last bit
        places = torch.arange(h + self.copies, device=device).clamp_max(h)
        return rows[:, places], products[:, places][:, :, places]


class Damage(ABC):
    """The objective along the directions of a `Line`."""

    reads: Literal["products", "sample", "rows"]
    """What a trial costs: ``n^2`` numbers, a sample of coordinates, or everything."""

    @abstractmethod
    def of(self, direction: int, gammas: Sequence[float], *, rough: bool) -> list[float]:
        """``|rule(round) - mean|`` for each push; ``rough`` allows a smaller sample."""


def damage_of(rule: Rule, line: Line) -> Damage:
    """The cheapest form that a rule has."""
    form = coefficients_of(rule)
    if form is not None:
        return _Weighed(form, line)
    *before, last = steps_of(rule)
    matrices = [matrix_of(step) for step in before]
    if is_coordinatewise(last) and all(matrix is not None for matrix in matrices):
        return _Sampled([matrix for matrix in matrices if matrix is not None], last, line)
    return _Measured(rule, line)


class _Weighed(Damage):
    """A rule of coefficients, on products alone."""

    reads = "products"

    def __init__(self, form: Callable[[RoundGeometry], Tensor], line: Line) -> None:
        self._form, self._line = form, line

    def of(self, direction: int, gammas: Sequence[float], *, rough: bool) -> list[float]:
        rows, products = self._line.rounds(direction, gammas)
        weights = torch.stack([self._form(RoundGeometry.of_products(each)) for each in products])
        off = (weights.double().unsqueeze(1) @ rows).squeeze(1)
        off[:, self._line.rows.shape[0]] -= 1.0  # the mean itself; what is left is 0 where coefficients sum to 1
        squares = ((off @ self._line.products) * off).sum(dim=1)
        return [float(square) for square in squares.clamp_min(0.0).sqrt()]


class _Sampled(Damage):
    """A coordinate-wise rule, perhaps behind mixing matrices, on a sample of coordinates."""

    reads = "sample"

    def __init__(self, matrices: list[Callable[[RoundGeometry], Tensor]], rule: Rule, line: Line) -> None:
        self._matrices, self._rule, self._line = matrices, rule, line
        self._samples: dict[bool, tuple[Tensor, Tensor, list[Tensor], Tensor]] = {}

    def of(self, direction: int, gammas: Sequence[float], *, rough: bool) -> list[float]:
        if rough not in self._samples:
            self._samples[rough] = _sample(self._line, ROUGH if rough else SAMPLE)
        rows, mean, pushes, weights = self._samples[rough]
        per_call = max(_COLUMNS // rows.shape[1], 1)
        found: list[float] = []
        for start in range(0, len(gammas), per_call):
            blocks = [self._round(rows, mean, pushes, direction, gamma) for gamma in gammas[start : start + per_call]]
            off = self._rule(torch.cat(blocks, dim=1)).double().view(len(blocks), -1) - mean.double()
            found.extend((off.square() @ weights).sqrt().tolist())
        return found

    def _round(self, rows: Tensor, mean: Tensor, pushes: list[Tensor], direction: int, gamma: float) -> Tensor:
        copies = (mean + gamma * pushes[direction]).expand(self._line.copies, -1)
        block = torch.cat([rows, copies])
        if not self._matrices:
            return block
        round_ = RoundGeometry.of_products(self._line.rounds(direction, [gamma])[1][0])
        for matrix in self._matrices:
            mix = matrix(round_)
            block = geometry.combine_many(block, mix)
            round_ = round_.mixed(mix)
        return block


class _Measured(Damage):
    """Any rule, on the whole round."""

    reads = "rows"

    def __init__(self, rule: Rule, line: Line) -> None:
        self._damage, self._line = line.measured(rule), line

    def of(self, direction: int, gammas: Sequence[float], *, rough: bool) -> list[float]:
        return [self._damage(self._line.point(direction, gamma)) for gamma in gammas]


def _sample(line: Line, count: int) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Rows, mean and directions at a sample of coordinates, the same every time, and their weights ``(count,)`` fp64.

    A sum of squares over all coordinates is estimated by the weighted sum. Coordinates are drawn by how much they are
    likely to contribute, by the squares of deviation and mean, because those of a model differ by orders of magnitude.
    """
    d = line.rows.shape[1]
    if count >= d:
        return line.rows, line.mean, list(line.pushes), torch.ones(d, dtype=torch.float64, device=line.rows.device)
    chance = torch.full((d,), _UNIFORM / d, dtype=torch.float64, device=line.rows.device)
    for size in (deviation_of(line.rows).double().square(), line.mean.double().square()):
        total = float(size.sum())
        chance += (1.0 - _UNIFORM) / 2.0 * (size / total if total > 0 else 1.0 / d)
    steps = chance.cumsum(dim=0)
    draw = torch.rand(count, generator=generator(0, "sample of coordinates", d), dtype=torch.float64)
    chosen = torch.searchsorted(steps, draw.to(steps.device) * steps[-1]).clamp_max(d - 1).sort().values
    weights = 1.0 / (count * chance[chosen] / steps[-1])
    return line.rows[:, chosen], line.mean[chosen], [push[chosen] for push in line.pushes], weights
