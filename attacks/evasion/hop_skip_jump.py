"""HopSkipJump: a small perturbation found from predicted classes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.ball import TINY, Norm, lengths
from fedsec.gradient import frozen

from .gradient_ascent import Passes

_AT_ONCE = 4096
_FINEST = 1e-3
_HALVINGS = 30


def hop_skip_jump(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | None = None,
    norm: Norm = "l2",
    steps: int = 30,
    batch: int = 100,
    largest: int = 10_000,
    tries: int = 100,
    start: Tensor | None = None,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """HopSkipJumpAttack (Chen, Jordan and Wainwright 2020, algorithms 1 and 2), for ``l2`` and ``linf``.

    From a misread point: bisect towards ``x`` until the boundary, estimate its normal from the classes of
    ``batch sqrt(t)`` points nearby (with the mean class taken off), step along it by ``distance / sqrt(t)``, halved
    until the point is misread, and repeat. Where a table has few features, the bisection is finer than the paper's.

    All examples see the same draws, from streams that one number of the generator starts, so an example's path does
    not depend on its batch.

    Points end so near to the boundary that rounding, which differs between batch sizes, may read some of them as before
    (one of ten ``linf`` points on a reference network): judge them again before they are counted.

    Args:
        model: inputs to logits ``(b, C)``, of which the largest alone is used; in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: distance at which an example is done; ``None`` seeks the smallest.
        norm: in which distance is measured.
        steps: estimates of the normal per example.
        batch: points of the first estimate.
        largest: points of an estimate at the most.
        tries: random points looked at for a misread one, at the most; noise in turn even and at the bounds.
        start: ``(b, *shape)`` points to start from, of the class wanted (needed in practice for targets).
        bounds: lowest and highest value of an input, finite: numbers, or tensors that broadcast to ``x``.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        generator: draws noise.
        passes: counts what it costs; no backward pass is made.

    Returns:
        ``(b, *shape)`` misread inputs within the bounds (and within ``eps``, if given), or ``x`` itself where none was
        found or it is misread already.

    Raises:
        ValueError: no generator, or another norm.
    """
    if generator is None:
        raise ValueError("the noise is drawn and needs a generator")
    if norm not in ("linf", "l2"):
        raise ValueError(f"distances are known in linf and l2, not in {norm}")
    x = x.detach()
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device).expand_as(x) for bound in bounds)
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    first, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    oracle = _Oracle(model, y if targets is None else targets, targets is not None, passes)
    found = x.clone()
    with frozen(model), torch.no_grad():
        every = torch.arange(len(x), device=x.device)
        rows = every[~oracle(x, every)]
        points = x.clone() if start is None else start.detach().clamp(low, high)
        rows = _begin(oracle, points, low, high, rows, first, tries, start is not None)
        nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        for number in range(steps + 1):
            if not len(rows):
                break
            points[rows] = _bisect(oracle, points[rows], x[rows], rows, norm)
            distance = lengths(points[rows] - x[rows], norm)
            flat = distance.flatten()
            better = flat < nearest[rows]
            nearest[rows[better]] = flat[better]
            if eps is not None:
                better &= flat <= eps
            found[rows[better]] = points[rows[better]]
            if eps is not None:
                distance, rows = distance[flat > eps], rows[flat > eps]
            if number == steps or not len(rows):
                break
            count = min(int(batch * math.sqrt(number + 1)), largest)
            drawn = torch.randn(count, *x.shape[1:], generator=noise, dtype=x.dtype)
            if norm == "linf":
                drawn = torch.rand(count, *x.shape[1:], generator=noise, dtype=x.dtype) * 2 - 1
            drawn = (drawn / lengths(drawn, "l2").clamp_min(TINY)).to(x.device)
            widest = (high - low)[rows].flatten(1).amax(1).reshape(distance.shape) * 0.1
            width = widest if not number else distance / x[0].numel()
            normal = _normal(oracle, points, width, low, high, rows, drawn)
            normal = normal.sign() if norm == "linf" else normal / lengths(normal, "l2").clamp_min(TINY)
            _jump(oracle, points, normal, distance / math.sqrt(number + 1), low, high, rows)
    return found


@dataclass(frozen=True)
class _Oracle:
    """Whether points, given with the rows that they belong to, are read as the attack wants."""

    model: nn.Module
    aim: Tensor
    targeted: bool
    passes: Passes | None

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        if self.passes is not None:
            self.passes.forwards += len(points)
        read: Tensor = self.model(points).argmax(-1)
        return torch.eq(read, self.aim[rows]) == self.targeted


def _begin(
    oracle: _Oracle,
    points: Tensor,
    low: Tensor,
    high: Tensor,
    rows: Tensor,
    generator: torch.Generator,
    tries: int,
    given: bool,
) -> Tensor:
    """Put misread points in their rows; returns the rows that have one."""
    begun = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    left = rows
    if given and len(left):
        begun[left] = oracle(points[left], left)
        left = left[~begun[left]]
    for number in range(tries):
        if not len(left):
            break
        unit = torch.rand(points.shape[1:], generator=generator, dtype=points.dtype)
        if number % 2:
            unit = (unit < torch.rand(1, generator=generator, dtype=points.dtype)).to(unit)
        drawn = low[left] + unit.to(points.device) * (high[left] - low[left])
        wanted = oracle(drawn, left)
        points[left[wanted]], begun[left[wanted]] = drawn[wanted], True
        left = left[~wanted]
    return rows[begun[rows]]


def _bisect(oracle: _Oracle, points: Tensor, x: Tensor, rows: Tensor, norm: Norm) -> Tensor:
    """The misread end of a short stretch between each point and its input that crosses the boundary."""
    count = x[0].numel()
    finest = max(min(count ** (-1.5 if norm == "l2" else -2.0), _FINEST), torch.finfo(x.dtype).eps)
    size, delta = lengths(points - x, norm), points - x
    best, inner, outer = points.clone(), torch.zeros_like(size), torch.ones_like(size)
    for _ in range(math.ceil(-math.log2(finest))):
        part = (inner + outer) / 2
        moved = x + (delta * part if norm == "l2" else torch.clamp(delta, -part * size, part * size))
        wanted = oracle(moved, rows)
        best[wanted] = moved[wanted]
        chosen = wanted.reshape(size.shape)
        inner, outer = torch.where(chosen, inner, part), torch.where(chosen, part, outer)
    return best


def _normal(
    oracle: _Oracle, points: Tensor, width: Tensor, low: Tensor, high: Tensor, rows: Tensor, drawn: Tensor
) -> Tensor:
    """Monte-Carlo estimate of the direction into the misread side (equation 16), for each row."""
    parts, group = [], max(_AT_ONCE // len(drawn), 1)
    for begin in range(0, len(rows), group):
        some = rows[begin : begin + group]
        centre, reach = points[some][:, None], width[begin : begin + group][:, None].clamp_min(TINY)
        near = torch.minimum(torch.maximum(centre + reach * drawn, low[some][:, None]), high[some][:, None])
        wanted = oracle(near.flatten(0, 1), some.repeat_interleave(len(drawn))).reshape(len(some), -1)
        sign = wanted.to(near) * 2 - 1
        mean = sign.mean(1, keepdim=True)
        weight = torch.where(mean.abs() == 1, sign, sign - mean)
        direction = (near - centre) / reach
        parts.append((weight.reshape(*weight.shape, *(1 for _ in points.shape[1:])) * direction).mean(1))
    return torch.cat(parts)


def _jump(
    oracle: _Oracle, points: Tensor, normal: Tensor, length: Tensor, low: Tensor, high: Tensor, rows: Tensor
) -> None:
    """Move each row along its normal by the first halving of the length that stays misread; else it stays."""
    left = torch.arange(len(rows), device=rows.device)
    for halving in range(_HALVINGS):
        if not len(left):
            return
        own = rows[left]
        moved = torch.clamp(points[own] + normal[left] * length[left] / 2**halving, low[own], high[own])
        wanted = oracle(moved, own)
        points[own[wanted]] = moved[wanted]
        left = left[~wanted]
