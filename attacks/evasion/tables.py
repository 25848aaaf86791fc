"""Rows of a table: what of them may be altered, and any attack on their numbers together with swaps of categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo
from fedsec.gradient import frozen

from .gradient_ascent import Passes
from .margins import CLEAR, margin

Search = Callable[[nn.Module, Tensor, Tensor, tuple[Tensor, Tensor]], Tensor]
"""``(model, x, y, bounds)`` to inputs within bounds of each feature: any of the attacks."""

_AT_ONCE = 20_000


@dataclass(frozen=True)
class Table:
    """What an attack may do to a row.

    Attributes:
        numbers: ``(d,)`` bool, inputs that hold a number which may change.
        low: ``(d,)`` lowest value of each input.
        high: ``(d,)`` highest.
        groups: the inputs ``(from, to)`` of each category which may change.
    """

    numbers: Tensor
    low: Tensor
    high: Tensor
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, info: DatasetInfo, immutable: Sequence[str] | None = None) -> Table:
        """The table of a dataset; one without named columns holds numbers alone.

        Args:
            info: a loaded table's.
            immutable: columns that stay as they are; ``None`` for those that state a sensitive attribute.

        Raises:
            ValueError: there is no such column.
        """
        low, high = info.bounds or (-torch.inf, torch.inf)
        count = info.input_shape[0]
        known = tuple(feature.name for feature in info.features)
        strange = sorted(set(immutable or ()) - set(known))
        if strange:
            raise ValueError(f"{info.name} has no column {strange[0]!r}; it has {', '.join(known) or 'no named ones'}")
        numbers = torch.ones(count, dtype=torch.bool)
        lows, highs = torch.full((count,), low), torch.full((count,), high)
        groups, at = [], 0
        for feature in info.features:
            end = at + feature.width
            pinned = bool(feature.attribute) if immutable is None else feature.name in immutable
            lows[at:end], highs[at:end] = feature.low, feature.high
            if feature.values:
                groups += [] if pinned or feature.width < 2 else [(at, end)]
            numbers[at:end] = not pinned and not feature.values
            at = end
        return cls(numbers, lows, highs, tuple(groups))

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds ``(b, d)`` of each row: a number's own (and its value, if that lies beyond), all else pinned."""
        free, low, high = self.numbers.to(x.device), self.low.to(x), self.high.to(x)
        return torch.where(free, torch.minimum(low, x), x), torch.where(free, torch.maximum(high, x), x)


def alter_rows(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    search: Search,
    table: Table,
    swaps: int = 1,
    decisions: bool = False,
    passes: Passes | None = None,
) -> Tensor:
    """Attack rows of a table: their numbers by any attack, their categories by greedy swaps, the rest not at all.

    The attack runs on the numbers that may change, each within its range. Rows that withstand it have one category
    swapped for the value that raises the lead of a wrong class most, of all single swaps, and are attacked again, up
    to ``swaps`` times and never twice in one column. So a row stays one-hot and its numbers stay in the attack's ball,
    which counts numbers alone (in the units of the inputs, scaled as the dataset scales them). What two columns say
    together is not looked at: a husband may become a wife where the sex does not change.

    Args:
        model: rows to logits ``(b, C)``; evaluated in eval mode and left as it was.
        x: ``(b, d)`` rows.
        y: ``(b,)`` true classes.
        search: the attack on numbers.
        table: what may change.
        swaps: categories that may change in a row, at the most.
        decisions: whether the attack sees predicted classes alone: then it has no lead to follow, and one swap at the
            most is made, of the first value that is misread.
        passes: counts the passes of the swaps; those of the search it counts itself.

    Returns:
        ``(b, d)`` rows.
    """
    x = x.detach()
    numbers = _NumbersAlone(model, table.numbers.to(x.device))
    with frozen(model), torch.no_grad():
        found = search(numbers, x, y, table.bounds(x))
        lead = _lead(model, found, y, passes)
        centre, unused = x.clone(), torch.ones(len(x), len(table.groups), dtype=torch.bool, device=x.device)
        for _ in range(min(swaps, len(table.groups), 1 if decisions else swaps)):
            left = (lead <= 0).nonzero()[:, 0]
            if not len(left):
                break
            swapped, to = _best_swap(model, found[left], y[left], table.groups, unused[left], passes)
            unused[left, swapped] = False
            moved, base = (_with(rows, table.groups, swapped, to) for rows in (found[left], centre[left]))
            tries = [moved]
            if not decisions:
                centre[left] = base
                tries.append(search(numbers, base, y[left], table.bounds(base)))
            for rows in tries:
                leads = _lead(model, rows, y[left], passes)
                better = leads > 0 if decisions else leads > lead[left]
                found[left[better]], lead[left[better]] = rows[better], leads[better]
    return found


class _NumbersAlone(nn.Module):
    """A model whose gradient sees only what may change, so that no step spends its length on the rest."""

    def __init__(self, model: nn.Module, numbers: Tensor) -> None:
        super().__init__()
        self.model = model
        self.numbers = numbers

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(torch.where(self.numbers, x, x.detach()))
        return logits


def _lead(model: nn.Module, rows: Tensor, y: Tensor, passes: Passes | None) -> Tensor:
    """Lead of the best wrong class; not above zero unless by more than rounding."""
    logits = model(rows)
    if passes is not None:
        passes.forwards += len(rows)
    lead = margin(logits, y)
    return torch.where(lead > CLEAR * logits.abs().amax(1), lead, lead.clamp_max(0.0))


def _best_swap(
    model: nn.Module,
    rows: Tensor,
    y: Tensor,
    groups: tuple[tuple[int, int], ...],
    unused: Tensor,
    passes: Passes | None,
) -> tuple[Tensor, Tensor]:
    """For each row the group and the value of the single swap after which a wrong class leads most."""
    options = [(number, value) for number, (at, end) in enumerate(groups) for value in range(end - at)]
    which, to = (torch.tensor(column, device=rows.device) for column in zip(*options, strict=True))
    swapped, values = torch.zeros_like(y), torch.zeros_like(y)
    for begin in range(0, len(rows), max(_AT_ONCE // len(options), 1)):
        some = slice(begin, begin + max(_AT_ONCE // len(options), 1))
        own, count = rows[some], len(rows[some])
        many = own.repeat_interleave(len(options), 0)
        many = _with(many, groups, which.repeat(count), to.repeat(count))
        lead = _lead(model, many, y[some].repeat_interleave(len(options)), passes).reshape(count, -1)
        same = (many.reshape(count, len(options), -1) == own[:, None]).all(-1)
        best = torch.where(same | ~unused[some][:, which], -torch.inf, lead).argmax(1)
        swapped[some], values[some] = which[best], to[best]
    return swapped, values


def _with(rows: Tensor, groups: tuple[tuple[int, int], ...], which: Tensor, to: Tensor) -> Tensor:
    """The rows, each with one category set to a value."""
    start, end = torch.tensor(groups, device=rows.device)[which].T
    inputs = torch.arange(rows.shape[1], device=rows.device)
    inside = (inputs >= start[:, None]) & (inputs < end[:, None])
    chosen = (inputs == (start + to)[:, None]).to(rows)
    return torch.where(inside, chosen, rows)
