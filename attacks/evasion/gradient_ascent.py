"""FGSM and PGD: inputs inside a norm ball that a model misreads, by one and by many steps of gradient ascent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsec.ball import AnyNorm, project, steepest, uniform_in_ball
from fedsec.gradient import frozen, input_gradient

from .hyperplane import box


@dataclass
class Passes:
    """Cost of an attack without hardware: passes of single examples through the model.

    Attributes:
        forwards: one per example and evaluation.
        backwards: one per example and input gradient.
    """

    forwards: int = 0
    backwards: int = 0


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: AnyNorm = "linf",
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """The fast gradient sign method (Goodfellow, Shlens and Szegedy 2015, section 4), or its ``l2`` form.

    Args:
        model: inputs to logits ``(b, C)``; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: size of the perturbation, in units of the inputs (8/255 of an image in [0, 1]).
        norm: ``linf``, ``l2`` or ``l1`` (see `steepest`), in which the perturbation has size ``eps``; clipping to the
            bounds can make it smaller.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        generator: draws nothing here; all attacks take one.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` inputs within the bounds.
    """
    with frozen(model, exact=True), torch.no_grad():
        gradient, _ = _ascent(model, y, targets, passes)(x, None)
        ball = _Ball.within(bounds, x, eps, norm)
        return ball.clipped(x.detach() + eps * ball.uphill(gradient, x))


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step: float | None = None,
    steps: int = 40,
    norm: AnyNorm = "linf",
    start: Tensor | None = None,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    restarts: int = 1,
    generator: torch.Generator | None = None,
    targets: Tensor | None = None,
    drop_fooled: bool = True,
    passes: Passes | None = None,
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018, section 2.1): ascent steps, projection on the ball, then clipping.

    The ascent is on the summed cross-entropy, so an example's path does not depend on its batch. An example that
    is misread keeps the first point at which it was (its own input, if that is misread already) and leaves the
    batch, which on a fragile model saves most of the work; the number of misread examples cannot suffer. What is
    never misread ends at the point of highest loss among the last points of the restarts.

    Args:
        model: inputs to logits ``(b, C)``; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: radius of the ball, in units of the inputs.
        step: length of a step in the same norm; ``None`` for ``2.5 eps / steps``, which reaches the sphere.
        steps: ascent steps per restart.
        norm: of the ball: ``linf``, ``l2``, or ``l1`` with sparse steps (see `steepest`) and the exact projection.
        start: ``(b, *shape)`` where the first restart starts (projected); ``None`` for a point drawn uniformly from
            the ball if there is a generator, else ``x`` itself.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        restarts: starts per example; the further ones are drawn.
        generator: draws the starts.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        drop_fooled: ``False`` keeps every example to its last step and skips the look at ``x`` itself. With one
            restart the result is then the last iterate, bit for bit that of other libraries from equal starts.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` inputs within the bounds and, up to rounding, within the ball.

    Raises:
        ValueError: several restarts without a generator.
    """
    if restarts > 1 and generator is None:
        raise ValueError("further restarts are drawn and need a generator")
    whole = _Ball.within(bounds, x, eps, norm)
    length = 2.5 * eps / steps if step is None else step
    x = x.detach()
    best, left = x.clone(), torch.arange(len(x), device=x.device)
    highest = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    with frozen(model, exact=not drop_fooled), torch.no_grad():
        if drop_fooled:
            left = left[~_judge(model, x, y, targets, passes)[1]]
        for number in range(restarts):
            if not len(left):
                break
            ball, centre, wanted = whole.of(left), x[left], None if targets is None else targets[left]
            first = ball.into(start[left], centre) if start is not None and not number else ball.draw(centre, generator)
            objective = _ascent(model, y[left], wanted, passes)
            points = _climb(objective, first, centre, ball, length, steps, drop_fooled)
            if restarts == 1:
                best[left] = points
                break
            losses, fooled = _judge(model, points, y[left], wanted, passes)
            losses = torch.where(fooled, torch.inf, losses)
            better = losses > highest[left]
            best[left[better]], highest[left[better]] = points[better], losses[better]
            left = left[~fooled] if drop_fooled else left
    return best


@dataclass(frozen=True)
class _Ball:
    """Where a perturbed input may lie; limits are numbers, or shaped like the inputs."""

    eps: float
    norm: AnyNorm
    limits: tuple[float, float] | tuple[Tensor, Tensor]

    @classmethod
    def within(cls, bounds: tuple[float | Tensor, float | Tensor], x: Tensor, eps: float, norm: AnyNorm) -> _Ball:
        """The balls around inputs; numbers stay numbers, which clip faster."""
        low, high = bounds
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return cls(eps, norm, box(bounds, x))
        return cls(eps, norm, (low, high))

    def of(self, rows: Tensor) -> _Ball:
        """The balls around some of the inputs."""
        low, high = self.limits
        if isinstance(low, Tensor) and isinstance(high, Tensor):
            return _Ball(self.eps, self.norm, (low[rows], high[rows]))
        return self

    def clipped(self, x: Tensor) -> Tensor:
        """Within the limits."""
        return torch.clamp(x, *self.limits)

    def into(self, x: Tensor, centre: Tensor) -> Tensor:
        """Project on the ball, then clip to the bounds (the centre lies within them, so both hold)."""
        return self.clipped(centre + project(x - centre, self.eps, self.norm))

    def uphill(self, gradient: Tensor, points: Tensor) -> Tensor:
        """Direction of a step of length 1. In ``l1``, where few features move, none of those that a limit stops."""
        if self.norm == "l1":
            low, high = self.limits
            gradient = gradient.masked_fill(((points >= high) & (gradient > 0)) | ((points <= low) & (gradient < 0)), 0)
        return steepest(gradient, self.norm)

    def draw(self, centre: Tensor, generator: torch.Generator | None) -> Tensor:
        """A point of the ball around each centre, clipped to the bounds; the centre without a generator."""
        if generator is None:
            return centre.clone()
        unit = torch.rand(centre.shape, generator=generator, dtype=centre.dtype, device=generator.device)
        radius = torch.rand(len(centre), generator=generator, dtype=centre.dtype, device=generator.device)
        drawn = uniform_in_ball(unit.to(centre.device), radius.to(centre.device), self.eps, self.norm)
        return self.into(centre + drawn, centre)


_Objective = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Inputs and which rows they are (``None`` for all), to the gradient to ascend and whether each is misread."""


def _ascent(model: nn.Module, y: Tensor, targets: Tensor | None, passes: Passes | None) -> _Objective:
    aim, sign = (y, 1.0) if targets is None else (targets, -1.0)

    def objective(x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        classes = aim if rows is None else aim[rows]

        def losses(leaf: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(leaf)
            return sign * nn.functional.cross_entropy(logits, classes, reduction="none"), logits

        gradient, logits = input_gradient(losses, x)
        if passes is not None:
            passes.forwards += len(x)
            passes.backwards += len(x)
        return gradient, (logits.argmax(-1) == classes) == (targets is not None)

    return objective


def _climb(
    objective: _Objective, first: Tensor, centre: Tensor, ball: _Ball, step: float, steps: int, drop_fooled: bool
) -> Tensor:
    """The last point of each example, or the first at which it is misread."""
    ends, points, rows = first.clone(), first, torch.arange(len(first), device=first.device)
    for _ in range(steps):
        gradient, fooled = objective(points, rows)
        if drop_fooled and fooled.any():
            ends[rows[fooled]], keep = points[fooled], ~fooled
            rows, points, centre, gradient, ball = rows[keep], points[keep], centre[keep], gradient[keep], ball.of(keep)
            if not len(rows):
                return ends
        points = ball.into(points + step * ball.uphill(gradient, points), centre)
    ends[rows] = points
    return ends


def _judge(
    model: nn.Module, x: Tensor, y: Tensor, targets: Tensor | None, passes: Passes | None
) -> tuple[Tensor, Tensor]:
    """Loss that the attack wants high, and whether the input is misread as it should be."""
    logits = model(x)
    if passes is not None:
        passes.forwards += len(x)
    if targets is None:
        return nn.functional.cross_entropy(logits, y, reduction="none"), logits.argmax(-1) != y
    return -nn.functional.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets
