"""FAB: misread inputs as near as possible to the original ones, by projections on linearised decision boundaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.gradient import frozen

from .gradient_ascent import Passes
from .hyperplane import Metric, box, dual_size, opened, over, size, toward_plane

_OVERSHOOT, _MOST_BIAS, _BACK = 1.05, 0.1, 0.9


def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Metric = "linf",
    steps: int = 100,
    targets: Tensor | None = None,
    any_class: bool = False,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    drop_fooled: bool = True,
    patience: int | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """The fast adaptive boundary attack (Croce and Hein, ICML 2020, algorithm 1); with ``targets`` FAB-T.

    Every step linearises the classifier, projects the point and the original input on the boundary of the linear
    piece inside the box, exactly, and moves to a mixture of both, slightly beyond; a misread point is pulled
    back towards the original one (overshoot 1.05, bias at most 0.1, backward step 0.9, as in the paper). Against any
    wrong class the boundary is the one that is nearest in the linear piece; all its gradients come from one batched
    backward pass, and ``passes`` counts one backward per class. The forward pass that judges a point also serves its
    gradient: one per example and step, and one more where a misread point was pulled back.

    Args:
        model: inputs to logits ``(b, C)``, two classes or more; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: radius of the ball in which a misread point counts, in units of the inputs; infinity for any distance.
        norm: ``linf``, ``l2`` or ``l1``.
        steps: linearisations per restart.
        targets: ``(b,)`` classes whose boundaries are approached, and to be read instead; ``None`` for the nearest.
        any_class: with ``targets``, count every wrong class, as AutoAttack's FAB-T does.
        restarts: searches per example; the second and further ones start at a random point of at most half the
            radius (or of half the distance found so far, if that is less).
        generator: draws these starts.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``. A feature whose
            bounds equal its value is never touched.
        drop_fooled: an example misread inside the ball is done and leaves the batch; ``False`` goes on to look
            for the nearest such point.
        patience: a search that after so many steps has not come nearer than 1.5 ``eps``, or thereafter not
            nearer than before for as many steps, is given up; ``None`` never gives up, as in the paper.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` inputs within the bounds: the nearest misread point that was found inside the ball, or the
        input itself, where there is none or where it is misread already. A point counts as misread by a margin in the
        logits above rounding, so that another batch size agrees.

    Raises:
        ValueError: several restarts without a generator.
    """
    if restarts > 1 and generator is None:
        raise ValueError("further restarts are drawn and need a generator")
    x = x.detach()
    found, shortest = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    low, high = box(bounds, x)
    with frozen(model), torch.no_grad():
        logits = model(x)
        if passes is not None:
            passes.forwards += len(x)
        read = logits.argmax(-1)
        done = read != y if targets is None or any_class else read == targets
        left = (~done).nonzero()[:, 0]
        for number in range(restarts):
            if not len(left):
                break
            wanted = None if targets is None else targets[left]
            search = _Search(model, x[left], y[left], wanted, any_class, low[left], high[left], norm, passes)
            first = x[left]
            if number and generator is not None:
                radius = 0.5 * shortest[left].clamp_max(eps)
                first = search.drawn(torch.where(radius.isfinite(), radius, 1.0), generator)
            points, distances = search.run(first, steps, eps, drop_fooled, patience)
            better = (distances < shortest[left]) & (distances <= eps)
            found[left[better]], shortest[left[better]] = points[better], distances[better]
            if drop_fooled:
                left = left[shortest[left].isinf()]
    return found


@dataclass(frozen=True)
class _Search:
    """One restart of every example in a batch."""

    model: nn.Module
    centre: Tensor
    y: Tensor
    targets: Tensor | None
    any_class: bool
    low: Tensor
    high: Tensor
    norm: Metric
    passes: Passes | None

    def drawn(self, radius: Tensor, generator: torch.Generator) -> Tensor:
        """Points at given distances from the centres in random directions, clipped to the box."""
        draw = torch.rand if self.norm == "linf" else torch.randn
        noise = draw(self.centre.shape, generator=generator, dtype=self.centre.dtype, device=generator.device)
        noise = (2 * noise - 1 if self.norm == "linf" else noise).to(self.centre)
        step = noise * over(radius / size(noise, self.norm).clamp_min(1e-12), noise)
        return torch.clamp(self.centre + step, self.low, self.high)

    def run(
        self, points: Tensor, steps: int, eps: float, drop_fooled: bool, patience: int | None
    ) -> tuple[Tensor, Tensor]:
        """The nearest misread points and their distances, infinite where there are none."""
        best, shortest = self.centre.clone(), torch.full_like(points.flatten(1)[:, 0], torch.inf)
        rows, since = torch.arange(len(points), device=points.device), torch.zeros_like(self.y)
        misread = torch.zeros_like(self.y, dtype=torch.bool)
        stay = ~misread
        logits, pull = self._opened(points)
        for number in range(1, steps + 1):
            points, normal, gap = self._planes(points, rows, logits, pull, misread, stay)
            rows = rows[stay]
            points = self._mixed(points, rows, normal, gap)
            logits, pull = self._opened(points)
            misread = self._misread(logits, rows)
            distance = size(points - self.centre[rows], self.norm)
            nearer = misread & (distance < shortest[rows])
            best[rows[nearer]], shortest[rows[nearer]] = points[nearer], distance[nearer]
            since[rows] = torch.where(nearer, 0, since[rows] + 1)
            stay = shortest[rows] > eps if drop_fooled else torch.ones_like(misread)
            if patience is not None and number >= patience:
                stay = stay & (shortest[rows] <= 1.5 * eps) & (since[rows] < patience)
            if not stay.any():
                break
        return best, shortest

    def _opened(self, points: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        if self.passes is not None:
            self.passes.forwards += len(points)
        return opened(self.model, points)

    def _misread(self, logits: Tensor, rows: Tensor) -> Tensor:
        """By more than rounding: another batch size must agree."""
        wanted = self.y[rows] if self.targets is None or self.any_class else self.targets[rows]
        chosen = logits.gather(1, wanted[:, None])[:, 0]
        others = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
        margin = others - chosen if self.targets is None or self.any_class else chosen - others
        return margin > 1e-5 * logits.abs().amax(1).clamp_min(1e-3)

    def _planes(
        self,
        points: Tensor,
        rows: Tensor,
        logits: Tensor,
        pull: Callable[[Tensor], Tensor],
        misread: Tensor,
        stay: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The points that stay, those misread pulled back, with the normal and the gap of each boundary there."""
        normal, gap = torch.zeros_like(points), torch.zeros_like(logits[:, 0])
        direct, back = stay & ~misread, stay & misread
        if direct.any():
            normal, gap = self._boundary(logits, pull, rows)
        if back.any():
            centre = self.centre[rows[back]]
            near = centre + _BACK * (points[back] - centre)
            points = points.index_put((back,), near)
            normal[back], gap[back] = self._boundary(*self._opened(near), rows[back])
        if self.passes is not None:
            count = int(stay.sum())
            self.passes.backwards += count if self.targets is not None else count * logits.shape[1]
        return points[stay], normal[stay], gap[stay]

    def _boundary(self, logits: Tensor, pull: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and value of the true class's lead over the other: the target, or that of the nearest boundary."""
        y, number = self.y[rows], torch.arange(len(rows), device=rows.device)
        if self.targets is not None:
            weights = torch.zeros_like(logits)
            weights[number, y] += 1
            weights[number, self.targets[rows]] -= 1
            return pull(weights[None])[0], (logits * weights).sum(1)
        classes = logits.shape[1]
        each = torch.eye(classes, dtype=logits.dtype, device=logits.device)
        gradients = pull(each[:, None].expand(classes, len(rows), classes))
        normals = gradients[y, number] - gradients
        gaps = (logits[number, y][:, None] - logits).T
        away = gaps.abs() / dual_size(normals, self.norm, lead=2).clamp_min(1e-12)
        away[y, number] = torch.inf
        nearest = away.argmin(0)
        return normals[nearest, number], gaps[nearest, number]

    def _mixed(self, points: Tensor, rows: Tensor, normal: Tensor, gap: Tensor) -> Tensor:
        """Both projections beyond the boundary, mixed by their lengths."""
        centre, low, high = self.centre[rows], self.low[rows], self.high[rows]
        away = gap + (normal * (centre - points)).flatten(1).sum(1)
        start, twice = torch.cat([points, centre]), torch.cat([normal, normal])
        lows, highs = torch.cat([low, low]), torch.cat([high, high])
        here, there = toward_plane(start, twice, -torch.cat([gap, away]), lows, highs, self.norm).chunk(2)
        long_here, long_there = (size(part, self.norm).clamp_min(1e-8) for part in (here, there))
        bias = over((long_here / (long_here + long_there)).clamp_max(_MOST_BIAS), points)
        mixed = (1 - bias) * (points + _OVERSHOOT * here) + bias * (centre + _OVERSHOOT * there)
        return torch.clamp(mixed, low, high)
