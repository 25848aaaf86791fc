"""Shadow data for property inference: public examples with and without properties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsec.data.examples import Examples
from fedsec.data.properties import Property, combinations, mix
from fedsec.protocol.outcome import NotApplicable


@dataclass(frozen=True)
class Pools:
    """Rows of the auxiliary examples by class and by which of several properties they have.

    Attributes:
        auxiliary: the public examples.
        properties: of which shards are to have much or little.
        rows: ``(n,)`` rows of usable examples, cell after cell.
        counts: ``(classes, 2^p)`` usable examples of each class and combination of properties. Classes in which one
            of the properties always or never holds are left out: such a class would stand in for the property.
        matched: whether shards have the classes of the auxiliary examples, whatever their properties.
    """

    auxiliary: Examples
    properties: tuple[Property, ...]
    rows: Tensor
    counts: Tensor
    matched: bool
    _tables: dict[tuple[tuple[bool, ...], float], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, auxiliary: Examples, properties: Sequence[Property], *, by_class: bool = True, matched: bool = True
    ) -> Pools:
        """Sort the auxiliary examples; those of which a property is not known are not used.

        Args:
            auxiliary: public examples.
            properties: one or more.
            by_class: whether labels are classes; else all examples are one class.
            matched: see `Pools`; without it a property may be that of a class.

        Raises:
            NotApplicable: no class has members both with and without each property.
        """
        code, width = combinations(properties, auxiliary), 2 ** len(properties)
        labels = auxiliary.y if by_class and matched else torch.zeros(len(auxiliary), dtype=torch.long)
        kinds, label = torch.unique(labels, return_inverse=True)
        cell = torch.where(code < 0, -1, label * width + code)
        counts = torch.bincount(cell[cell >= 0], minlength=len(kinds) * width).view(-1, width)
        bits = torch.arange(width)
        usable = torch.ones(len(kinds), dtype=torch.bool)
        for number in range(len(properties)):
            having = (bits >> number) & 1 == 1
            usable &= (counts[:, having].sum(1) > 0) & (counts[:, ~having].sum(1) > 0)
        if not bool(usable.any()):
            names = " and ".join(repr(one.name) for one in properties)
            raise NotApplicable(f"no class of the public examples has members both with and without {names}")
        kept = (cell >= 0) & usable[label]
        rows = kept.nonzero().flatten()
        order = cell[rows].argsort(stable=True)
        return cls(auxiliary, tuple(properties), rows[order], counts[usable], matched)

    @property
    def weight(self) -> Tensor:
        """``(classes,)`` share of the usable examples in each class."""
        return self.counts.sum(1).double() / self.counts.sum()

    def table(self, kinds: tuple[bool, ...], purity: float) -> Tensor:
        """``(classes, 2^p)`` shares of a shard whose properties are as ``kinds`` says (`fedsec.data.properties.mix`).

        Raises:
            NotApplicable: the properties go together in the public examples.
        """
        if (kinds, purity) not in self._tables:
            shares = [purity if kind else 1 - purity for kind in kinds]
            try:
                made = mix(self.counts, shares, self.weight if self.matched else None)
            except ValueError as error:
                raise NotApplicable(f"{', '.join(p.name for p in self.properties)}: {error}; ask for one") from error
            self._tables[kinds, purity] = made
        return self._tables[kinds, purity]

    def pair(
        self, size: int, purity: float, kinds: Sequence[bool], *, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Two shards that differ in every property: one as ``kinds`` says, one the opposite.

        Where labels are matched both have the same number of examples of each class, drawn from the auxiliary
        distribution once for both. Examples are drawn with replacement, so that a small public set can stand in for
        large clients.
        """
        starts = torch.cat([torch.zeros(1, dtype=torch.long), self.counts.flatten().cumsum(0)[:-1]])
        classes = torch.multinomial(self.weight, size, replacement=True, generator=generator)
        shards = []
        for side in (tuple(kinds), tuple(not kind for kind in kinds)):
            table = self.table(side, purity)
            width = table.shape[1]
            if self.matched:
                combination = torch.multinomial(table[classes], 1, generator=generator).flatten()
                cell = classes * width + combination
            else:
                cell = torch.multinomial(table.flatten(), size, replacement=True, generator=generator)
            draw = torch.rand(size, generator=generator, dtype=torch.float64)
            place = (draw * self.counts.flatten()[cell]).long()
            shards.append(self.auxiliary.take(self.rows[starts[cell] + place]))
        return shards[0], shards[1]

    def shards(
        self, count: int, sizes: Sequence[int], purity: float, *, generator: torch.Generator
    ) -> tuple[list[Examples], Tensor]:
        """``count`` pairs of shards and what each has.

        Args:
            count: pairs.
            sizes: examples of a shard, used in turn.
            purity: share of a shard's examples that are of its own kind, for each property.
            generator: draws kinds and examples.

        Returns:
            ``2 count`` shards, and ``(2 count, p)`` bool; every property holds for half of them, and which others go
            with it is random.
        """
        made: list[Examples] = []
        holds: list[list[bool]] = []
        for number in range(count):
            kinds = (torch.rand(len(self.properties), generator=generator) < 0.5).tolist()
            made += self.pair(sizes[number % len(sizes)], purity, kinds, generator=generator)
            holds += [kinds, [not kind for kind in kinds]]
        return made, torch.tensor(holds, dtype=torch.bool)


def cohorts(
    singles: Tensor, holds: Tensor, size: int, count: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Means of random cohorts of simulated updates, and whether most of their members have the property.

    Args:
        singles: ``(s, d)`` simulated updates.
        holds: ``(s,)`` bool.
        size: updates per cohort.
        count: cohorts of each kind.
        generator: draws the members.

    Returns:
        ``(2 count, d)`` means and ``(2 count,)`` bool; the number of members with the property is uniform within
        each kind, and never half.
    """
    with_rows, without_rows = holds.nonzero().flatten(), (~holds).nonzero().flatten()
    mixes = torch.zeros(2 * count, len(singles), dtype=singles.dtype)
    fewest = size // 2 + 1
    for number in range(2 * count):
        major = int(torch.randint(fewest, size + 1, (), generator=generator))
        having = major if number < count else size - major
        for rows, many in ((with_rows, having), (without_rows, size - having)):
            drawn = rows[torch.randint(len(rows), (many,), generator=generator)]
            mixes[number].index_add_(0, drawn, torch.full((many,), 1 / size, dtype=singles.dtype))
    return mixes @ singles, torch.arange(2 * count) < count


def permuted_within(truths: Sequence[bool] | Tensor, *, generator: torch.Generator) -> Tensor:
    """Labels that say nothing: a random half of each kind gets the one label, the rest the other.

    A plain permutation leaves a chance correlation that, where the property is the main direction of the data,
    makes the control a good classifier or a perfectly wrong one; balancing takes that away.
    """
    kinds = torch.as_tensor(truths, dtype=torch.bool)
    labels = torch.zeros_like(kinds)
    for number, kind in enumerate((False, True)):
        rows = (kinds == kind).nonzero().flatten()
        half = (len(rows) + number) // 2
        labels[rows[torch.randperm(len(rows), generator=generator)[:half]]] = True
    return labels
