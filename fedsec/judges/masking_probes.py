"""Small attacks that the masking battery compares: gradient ascent, search by scores alone, and random noise.

They are weaker than the attacks of the registry, and need not be strong: what they disagree on tells whether a
model's gradients can be believed. All share each draw among the examples, so that no example's path depends on others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.gradient import input_gradient

Objective = Callable[[Tensor, Tensor], Tensor]
"""``(logits (b, C), y (b,)) -> (b,)`` what an attack wants high."""

_HALVINGS = (0.01, 0.05, 0.2, 0.5)
"""Parts of the queries after which squares have half the area."""


@dataclass(frozen=True)
class Room:
    """Where an input may lie: a box around it, within the bounds; both shaped like the inputs."""

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, x: Tensor, share: float, low: Tensor, high: Tensor) -> Room:
        """All inputs no value of which moved by more than ``share`` of the width of its bounds."""
        reach = share * (high - low)
        return cls(torch.maximum(x - reach, low), torch.minimum(x + reach, high))

    def of(self, rows: Tensor) -> Room:
        """The same for some of the inputs."""
        return Room(self.low[rows], self.high[rows])

    def into(self, x: Tensor) -> Tensor:
        """The nearest inputs of the box."""
        return torch.minimum(torch.maximum(x, self.low), self.high)


@dataclass(frozen=True)
class Trace:
    """How an ascent went, per example.

    Attributes:
        fooled: whether some point of the path was misread.
        null: share of its steps on which the gradient was exactly zero.
        rose: whether its objective was higher at the end than at the start, or it was fooled.
    """

    fooled: Tensor
    null: Tensor
    rose: Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """What most attacks ascend; its gradient vanishes where the model is sure."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the true one: above zero where an input is misread.

    Multiplying the logits changes neither its sign nor its gradient's, which is what the ratio in the DLR loss
    (Croce and Hein 2020) is for; and it needs two classes only.
    """
    own = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own


def misread(logits: Tensor, y: Tensor) -> Tensor:
    """Whether another class is read; outputs that are no numbers are misread."""
    return (logits.argmax(1) != y) | torch.isnan(logits).any(1)


def climb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    room: Room,
    *,
    steps: int,
    objective: Objective,
    start: Tensor | None = None,
    length: float = 2.5,
) -> Trace:
    """Signed gradient ascent (PGD); a fooled example leaves the batch.

    Args:
        model: inputs to logits, in eval mode and frozen.
        x: ``(n, *shape)``.
        y: ``(n,)`` true classes.
        room: where inputs may lie.
        steps: gradient steps.
        objective: what is ascended.
        start: ``shape`` numbers in [0, 1), where in the room all paths start; ``None`` for the inputs themselves.
        length: all steps together, in half widths of an unclipped room.
    """
    n = len(x)
    fooled, rose = (torch.zeros(n, dtype=torch.bool, device=x.device) for _ in range(2))
    null, taken = torch.zeros(n, device=x.device), torch.zeros(n, device=x.device)
    first = torch.full((n,), torch.nan, device=x.device, dtype=x.dtype)
    # The reach, not half the width: a pixel at a bound has room on one side only, and moves as far.
    reach = torch.maximum(room.high - x, x - room.low)
    points = x.clone() if start is None else room.into(x + (2 * start - 1) * reach)
    left = torch.arange(n, device=x.device)

    for number in range(steps + 1):
        answers = y[left]

        def losses(leaf: Tensor, answers: Tensor = answers) -> tuple[Tensor, Tensor]:
            logits = model(leaf)
            return objective(logits, answers), logits

        if number == steps:
            with torch.no_grad():
                logits = model(points[left])
            gradient = torch.zeros_like(points[left])
        else:
            gradient, logits = input_gradient(losses, points[left])
        value, wrong = objective(logits, answers), misread(logits, answers)
        first[left] = torch.where(torch.isnan(first[left]), value, first[left])
        fooled[left[wrong]] = True
        rose[left] = wrong | (value > first[left])
        if number == steps:
            break
        zero = torch.nan_to_num(gradient).flatten(1).abs().amax(1) == 0
        null[left] += zero.float()
        taken[left] += 1
        left, gradient = left[~wrong], gradient[~wrong]
        if not len(left):
            break
        moved = points[left] + (length / steps) * reach[left] * torch.nan_to_num(gradient).sign()
        points[left] = room.of(left).into(moved)
    return Trace(fooled, null / taken.clamp_min(1), rose)


def search(model: nn.Module, x: Tensor, y: Tensor, room: Room, *, queries: int, generator: torch.Generator) -> Tensor:
    """Which examples a random search finds that sees scores only; ``(n,)`` bool.

    The idea of the Square attack (Andriushchenko et al. 2020) in small: from vertical stripes, one square (of a row:
    one run of features) after another goes to a corner of the room and stays where that helps the margin.
    """
    shape = x.shape[1:]
    planes = (1, 1, *shape) if len(shape) == 1 else (1, *shape) if len(shape) == 2 else tuple(shape)
    channels, height, width = planes[-3], planes[-2], planes[-1]
    low, high = room.low.reshape(-1, channels, height, width), room.high.reshape(-1, channels, height, width)
    fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    left = torch.arange(len(x), device=x.device)
    best = torch.where(_signs((channels, 1, width), generator).to(x.device), high, low)
    most = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    points = best.clone()
    for number in range(queries):
        with torch.no_grad():
            logits = model(points.reshape(-1, *shape))
        value = margin(logits, y[left])
        better = value > most
        best[better], most[better] = points[better], value[better]
        wrong = misread(logits, y[left])
        fooled[left[wrong]] = True
        left, best, most, low, high = (t[~wrong] for t in (left, best, most, low, high))
        if not len(left):
            break
        area = 0.5 / 2 ** sum(number >= part * queries for part in _HALVINGS) * height * width
        tall = max(1, min(height, round(area**0.5 if height > 1 else 1)))
        wide = max(1, min(width, round(area / tall)))
        top, side = (_draw(size - part + 1, generator) for size, part in ((height, tall), (width, wide)))
        window = (..., slice(top, top + tall), slice(side, side + wide))
        up = _signs((channels, 1, 1), generator).to(x.device)
        points = best.clone()
        points[window] = torch.where(up, high[window], low[window])
    return fooled


def shake(model: nn.Module, x: Tensor, y: Tensor, room: Room, *, draws: int, generator: torch.Generator) -> Tensor:
    """Which examples some random corner of the room fools; ``(n,)`` bool."""
    fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(draws):
        left = (~fooled).nonzero().flatten()
        if not len(left):
            break
        up = _signs(tuple(x.shape[1:]), generator).to(x.device)
        with torch.no_grad():
            logits = model(torch.where(up, room.high[left], room.low[left]))
        fooled[left] = misread(logits, y[left])
    return fooled


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) < 0.5


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))
