"""Square: random search with squares, which sees logits only and so cannot be misled by masked gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fedsec.ball import TINY, Norm
from fedsec.gradient import frozen

from .gradient_ascent import Passes

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULED = 10000
_CLEAR = 1e-5
_WATCHED = 100


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    queries: int = 5000,
    share: float = 0.8,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    give_up: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """Square Attack (Andriushchenko, Croce, Flammarion and Hein 2020, algorithms 1 to 3): random search on scores.

    A query moves one square of every image to a corner of the ball (``linf``, from vertical stripes) or moves the
    mass of one square into another (``l2``, from a grid of bumps) and is kept where it lowers the margin
    ``z_y - max z_other`` (the cross-entropy of the target, if there is one). The share of the image in a square
    halves at fixed parts of the queries (section 5, rescaled from 10,000).

    The rows of a table have no neighbourhoods: there a square is a random group of features, each with its own sign.

    All examples see the same draws, from a stream of their own that one number of the generator starts. So an
    example's path does not depend on its batch, nor on which others are left. A proposal that changes nothing (in
    ``linf`` about every other one late in the search) counts as a query but is not evaluated. An example that is
    misread by more than rounding leaves the batch.

    Args:
        model: inputs to logits ``(b, C)``, C at least 2; evaluated in eval mode and left as it was.
        x: ``(b, c, h, w)`` or ``(b, h, w)`` images or ``(b, features)`` rows, within the bounds.
        y: ``(b,)`` true classes.
        eps: radius of the ball, in units of the inputs.
        norm: of the ball.
        queries: points tried per example, the start included.
        share: of an image's positions in the first squares.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        generator: draws the squares.
        give_up: every 100 queries gets their number, the rows of ``x`` that are still searched ``(k,)`` and their
            lowest losses so far, and says for which of them, ``(k,)``, the search shall end; ``None`` ends none.
        passes: counts what it costs; no backward pass is made.

    Returns:
        Inputs shaped like ``x`` within bounds and, up to rounding, ball: the best point found, or ``x`` itself where it
        is misread already.

    Raises:
        ValueError: no generator, inputs of another number of dimensions, another norm, or no query.
    """
    if generator is None:
        raise ValueError("the squares are drawn and need a generator")
    if queries < 1:
        raise ValueError(f"at least one query is needed, not {queries}")
    if norm not in ("linf", "l2"):
        raise ValueError(f"squares are known for linf and l2, not for {norm}")
    layout = _layout(x.shape[1:])
    channels, positions = layout.size
    x = x.detach()
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device).expand_as(x) for bound in bounds)
    if norm == "linf":
        low, high = torch.maximum(low, x - eps), torch.minimum(high, x + eps)
    judge = _Judge(model, x.shape[1:], targets is not None, passes)
    aim = y if targets is None else targets
    own = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
    found = x.clone()
    with frozen(model), torch.no_grad():
        left = torch.arange(len(x), device=x.device)[~judge(x, aim)[2]]
        centre, low, high = (t[left].reshape(-1, channels, positions) for t in (x, low, high))
        search = _Corners(layout, low, high) if norm == "linf" else _Bumps(layout, centre, low, high, eps)
        best, aim = search.start(own), aim[left]
        loss = torch.full((len(left),), torch.inf, dtype=x.dtype, device=x.device)
        points, rows = best, torch.arange(len(left), device=x.device)
        for query, part in enumerate(_shares(share, queries), 1):
            if not len(left):
                break
            keep = torch.ones(len(left), dtype=torch.bool, device=x.device)
            if len(rows):
                losses, fooled, _ = judge(points, aim[rows])
                better = (losses < loss[rows]) | fooled
                best[rows[better]], loss[rows[better]] = points[better], losses[better]
                keep[rows[fooled]] = False
            if give_up is not None and query % _WATCHED == 0:
                keep[keep.nonzero()[:, 0][give_up(query, left[keep], loss[keep])]] = False
            if not keep.all():
                found[left[~keep]] = best[~keep].reshape(-1, *x.shape[1:])
                best, loss, aim, left = best[keep], loss[keep], aim[keep], left[keep]
                search = search.of(keep)
            points, rows = search.propose(best, part, own)
        found[left] = best.reshape(-1, *x.shape[1:])
    return found


def _shares(share: float, queries: int) -> Iterator[float]:
    """The share of the positions in the square that follows each query."""
    for query in range(queries):
        at = query * _SCHEDULED // queries
        yield share / 2 ** sum(at > edge for edge in _HALVINGS)


@dataclass(frozen=True)
class _Judge:
    """Points to the loss that the attack wants low, and whether each is misread: clearly, and at all."""

    model: nn.Module
    shape: torch.Size
    targeted: bool
    passes: Passes | None

    def __call__(self, points: Tensor, aim: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.model(points.reshape(-1, *self.shape))
        if self.passes is not None:
            self.passes.forwards += len(points)
        own = logits.gather(1, aim[:, None])[:, 0]
        others = logits.scatter(1, aim[:, None], -torch.inf).amax(1)
        margin = others - own if self.targeted else own - others
        losses = nn.functional.cross_entropy(logits, aim, reduction="none") if self.targeted else margin
        return losses, margin < -_CLEAR * logits.abs().amax(1), (logits.argmax(1) == aim) == self.targeted


class _Search(Protocol):
    """How a norm starts and proposes; points are ``(b, c, positions)``."""

    def start(self, generator: torch.Generator) -> Tensor: ...

    def propose(self, best: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """New points, and the rows that they are for."""

    def of(self, keep: Tensor) -> _Search:
        """The same search for the rows that are left."""


@dataclass(frozen=True)
class _Corners:
    """``linf``: every coordinate of a square moves to its lowest or highest value (algorithm 2)."""

    layout: _Layout
    low: Tensor
    high: Tensor

    def start(self, generator: torch.Generator) -> Tensor:
        return torch.where(self.layout.stripes(generator).to(self.low.device) > 0, self.high, self.low)

    def propose(self, best: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        where, signs = (t.to(best.device) for t in self.layout.patch(share, generator))
        moved = torch.where(signs > 0, self.high[..., where], self.low[..., where])
        rows = (moved != best[..., where]).flatten(1).any(1).nonzero()[:, 0]
        points = best[rows]
        points[..., where] = moved[rows]
        return points, rows

    def of(self, keep: Tensor) -> _Corners:
        return _Corners(self.layout, self.low[keep], self.high[keep])


@dataclass(frozen=True)
class _Bumps:
    """``l2``: the mass of two squares moves into one, with a bump added, at full length (algorithm 3)."""

    layout: _Layout
    centre: Tensor
    low: Tensor
    high: Tensor
    eps: float

    def start(self, generator: torch.Generator) -> Tensor:
        return self._at(self.layout.bumps(generator).to(self.centre).expand_as(self.centre))

    def propose(self, best: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        to, bump = self.layout.bump(share, generator)
        to, source, bump = to.to(best.device), self.layout.like(to, generator).to(best.device), bump.to(best)
        delta = best - self.centre
        spare = (self.eps**2 - delta.square().sum((1, 2), keepdim=True)).clamp_min(0) / delta.shape[1]
        touched = torch.zeros(delta.shape[2], dtype=torch.bool, device=delta.device)
        touched[to] = touched[source] = True
        mass = delta[..., touched].square().sum(-1, keepdim=True)
        new = bump + delta[..., to] / delta[..., to].norm(dim=-1, keepdim=True).clamp_min(TINY)
        new = new / new.norm(dim=-1, keepdim=True).clamp_min(TINY) * (spare + mass).sqrt()
        delta[..., source] = 0.0
        delta[..., to] = new
        return self._at(delta), torch.arange(len(best), device=best.device)

    def of(self, keep: Tensor) -> _Bumps:
        return _Bumps(self.layout, self.centre[keep], self.low[keep], self.high[keep], self.eps)

    def _at(self, delta: Tensor) -> Tensor:
        length = delta.flatten(1).norm(dim=1)[:, None, None].clamp_min(TINY)
        return torch.clamp(self.centre + delta * (self.eps / length), self.low, self.high)


class _Layout(Protocol):
    """What a square is: ``(k,)`` positions, and ``(c, k)`` or ``(c, 1)`` signs or bumps of length 1 per channel."""

    @property
    def size(self) -> tuple[int, int]:
        """Channels and positions."""

    def stripes(self, generator: torch.Generator) -> Tensor:
        """Signs ``(c, positions)`` to start from in ``linf``."""

    def bumps(self, generator: torch.Generator) -> Tensor:
        """A direction ``(c, positions)`` to start from in ``l2``."""

    def patch(self, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions and their signs."""

    def bump(self, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions and a bump on them."""

    def like(self, where: Tensor, generator: torch.Generator) -> Tensor:
        """As many other positions."""


def _layout(shape: torch.Size) -> _Layout:
    if len(shape) == 1:
        return _Features(shape[0])
    if len(shape) in (2, 3):
        return _Image(shape[0] if len(shape) == 3 else 1, shape[-2], shape[-1])
    raise ValueError(f"squares are known for images and for rows of features, not for inputs of shape {tuple(shape)}")


@dataclass(frozen=True)
class _Image:
    channels: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        return self.channels, self.height * self.width

    def stripes(self, generator: torch.Generator) -> Tensor:
        return _signs(self.channels, self.width, generator).repeat(1, self.height)

    def bumps(self, generator: torch.Generator) -> Tensor:
        side = max(min(self.height, self.width) // 5, 1)
        canvas = torch.zeros(self.channels, self.height, self.width)
        for top in range(self.height % side // 2, self.height - side + 1, side):
            for left in range(self.width % side // 2, self.width - side + 1, side):
                bump = _bump(side, generator) * _signs(self.channels, 1, generator)[..., None]
                canvas[:, top : top + side, left : left + side] = bump
        return canvas.flatten(1)

    def patch(self, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        side = min(max(round(math.sqrt(share * self.size[1])), 1), self.height, self.width)
        return self._at(side, generator), _signs(self.channels, 1, generator)

    def bump(self, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        least = min(self.height, self.width)
        side = min(max(round(math.sqrt(share * self.size[1])), 3) | 1, least if least % 2 else max(least - 1, 1))
        bump = _bump(side, generator).flatten() * _signs(self.channels, 1, generator)
        return self._at(side, generator), bump

    def like(self, where: Tensor, generator: torch.Generator) -> Tensor:
        return self._at(math.isqrt(len(where)), generator)

    def _at(self, side: int, generator: torch.Generator) -> Tensor:
        """A square anywhere, the last row and column included (the authors' code leaves them out)."""
        top = torch.randint(self.height - side + 1, (1, 1), generator=generator) + torch.arange(side)[:, None]
        left = torch.randint(self.width - side + 1, (1, 1), generator=generator) + torch.arange(side)
        return (top * self.width + left).flatten()


@dataclass(frozen=True)
class _Features:
    count: int

    @property
    def size(self) -> tuple[int, int]:
        return 1, self.count

    def stripes(self, generator: torch.Generator) -> Tensor:
        return _signs(1, self.count, generator)

    def bumps(self, generator: torch.Generator) -> Tensor:
        return _signs(1, self.count, generator)

    def patch(self, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count = max(round(share * self.count), 1)
        return torch.randperm(self.count, generator=generator)[:count], _signs(1, count, generator)

    def bump(self, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        where, signs = self.patch(share, generator)
        return where, signs / math.sqrt(len(where))

    def like(self, where: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.count, generator=generator)[: len(where)]


def _signs(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (rows, columns), generator=generator).mul(2).sub(1).float()


def _bump(side: int, generator: torch.Generator) -> Tensor:
    """The direction of equation 3: two peaks of opposite sign side by side, or one above the other."""
    upper = side // 2
    bump = torch.cat([_peak(upper, side), -_peak(side - upper, side)])
    bump = bump.div(bump.norm())
    return bump.T if torch.rand(1, generator=generator) > 0.5 else bump


def _peak(height: int, width: int) -> Tensor:
    """Falling from its middle ring by ring (by ``1/j^2`` from ring j to the next), of length 1."""
    if not height:
        return torch.zeros(0, width)
    rings = max(height // 2, width // 2) + 1
    levels = (torch.arange(rings) + 1.0).pow(-2).flip(0).cumsum(0).flip(0)
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    peak = levels[torch.maximum(rows.abs()[:, None], columns.abs())]
    return peak.div(peak.norm())
