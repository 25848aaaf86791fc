"""L-BFGS on many independent problems at once: one batched evaluation serves every lane's line search.

A lane is one problem of ``n`` variables. Lanes share nothing but the call of the objective: each has its own history,
its own line search at its own trial step, and drops out when it has converged or stalled. A lane that accepts its
step turns to its next direction at once, so no lane waits for another one's line search.

Sources: Nocedal and Wright, Numerical Optimization (2nd ed.), algorithm 7.4 (two-loop recursion) and algorithms 3.5
and 3.6 (line search for the strong Wolfe conditions); Byrd, Nocedal, Schnabel 1994 (products of the history as one
triangular matrix).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

ARMIJO = 1e-4
"""Share of the predicted decrease that a step must bring."""
TRIALS = 20
"""Steps tried along one direction at most."""
COMPACT = 0.75
"""Lanes are evaluated without those that dropped out once the rest is at most this share of them."""

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``x (k, n) -> values (k,), gradients (k, n)`` of ``k`` lanes."""
Problem = Callable[[Tensor], Objective]
"""``lanes (k,) int64 -> Objective`` of those lanes."""


@dataclass(frozen=True)
class Minimum:
    """What was found on ``l`` lanes.

    Attributes:
        x: ``(l, n)`` the best point evaluated.
        value: ``(l,)`` the objective there; ``inf`` if it was nowhere finite.
        evaluations: ``(l,)`` int64, of the objective and its gradient.
        iterations: ``(l,)`` int64, steps taken.
    """

    x: Tensor
    value: Tensor
    evaluations: Tensor
    iterations: Tensor


class History:
    """The last ``m`` steps ``s`` and gradient changes ``y`` of each lane, in a ring per lane.

    Attributes:
        steps: ``(k, m, n)``, zeros where nothing was kept yet.
        changes: ``(k, m, n)``.
        products: ``(k, m, m)``, ``s_i . y_j``.
        scale: ``(k,)``, ``s . y / y . y`` of the newest pair.
        count: ``(k,)`` int64, pairs kept since the last `forget`.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        """Args: like: ``(k, n)``; size: ``m``."""
        lanes, n = like.shape
        self.steps, self.changes = like.new_zeros(lanes, size, n), like.new_zeros(lanes, size, n)
        self.products = like.new_zeros(lanes, size, size)
        self.scale = like.new_ones(lanes)
        self.count = torch.zeros(lanes, dtype=torch.int64, device=like.device)

    def keep(self, rows: Tensor) -> None:
        """Drop the other lanes."""
        for name in ("steps", "changes", "products", "scale", "count"):
            setattr(self, name, getattr(self, name)[rows])

    def forget(self, lanes: Tensor) -> None:
        """Empty the history of some lanes, ``(k,)`` bool."""
        if bool(lanes.any()):
            for tensor in (self.steps, self.changes, self.products, self.count):
                tensor[lanes] = 0
            self.scale[lanes] = 1

    def push(self, lanes: Tensor, step: Tensor, change: Tensor) -> None:
        """Keep a pair of some lanes, ``(k,)`` bool; one without positive curvature is skipped."""
        curvature, length = (step * change).sum(1), change.square().sum(1)
        least = torch.finfo(step.dtype).eps * (step.square().sum(1) * length).sqrt()
        rows = (lanes & (curvature > least)).nonzero().squeeze(1)
        if len(rows) == 0:
            return
        slot = self.count[rows] % self.steps.shape[1]
        self.steps[rows, slot], self.changes[rows, slot] = step[rows], change[rows]
        # All lanes in one product: gathering the histories of some would cost more than the arithmetic.
        self.scale[rows] = curvature[rows] / length[rows]
        self.count[rows] += 1
        filled = min(int(self.count.max()), self.steps.shape[1])
        self.products[rows, slot, :filled] = _along(self.changes[:, :filled], step)[rows]
        self.products[rows, :filled, slot] = _along(self.steps[:, :filled], change)[rows]

    def direction(self, gradient: Tensor) -> Tensor:
        """``-H g`` of each lane, ``(k, n)``.

        Each loop of the two-loop recursion is a substitution in the triangular matrix ``R_ij = s_i . y_j, i <= j``
        (oldest first): ``R a = S g``, ``r = scale (g - Y' a)``, ``R' c = diag(R) a - Y r``, ``H g = r + S' c``.
        """
        filled = min(int(self.count.max()), self.steps.shape[1])
        if filled == 0:
            return -gradient
        steps, changes = self.steps[:, :filled], self.changes[:, :filled]
        oldest_first = (self.count.unsqueeze(1) + torch.arange(filled, device=gradient.device)) % filled
        products = self.products[:, :filled, :filled]
        products = products.gather(1, oldest_first.unsqueeze(2).expand_as(products))
        upper = products.gather(2, oldest_first.unsqueeze(1).expand_as(products)).triu()
        diagonal = upper.diagonal(dim1=1, dim2=2)
        diagonal += (diagonal == 0).to(diagonal)  # empty slots: their rows and columns are zero
        inner = _along(steps, gradient).gather(1, oldest_first)
        first = torch.linalg.solve_triangular(upper, inner.unsqueeze(2), upper=True).squeeze(2)
        by_slot = torch.zeros_like(first).scatter(1, oldest_first, first)
        result = self.scale.unsqueeze(1) * (gradient - (by_slot.unsqueeze(1) @ changes).squeeze(1))
        rest = diagonal * first - _along(changes, result).gather(1, oldest_first)
        second = torch.linalg.solve_triangular(upper.mT, rest.unsqueeze(2), upper=False).squeeze(2)
        by_slot = torch.zeros_like(second).scatter(1, oldest_first, second)
        return -(result + (by_slot.unsqueeze(1) @ steps).squeeze(1))


def _along(kept: Tensor, vectors: Tensor) -> Tensor:
    """Inner products of each lane's rows ``(k, m, n)`` with its vector ``(k, n)``, ``(k, m)``.

    A row times a transposed matrix: as a matrix times a column, MKL's batched product takes ten times as long on
    processors that are not Intel's.
    """
    return (vectors.unsqueeze(1) @ kept.mT).squeeze(1)


@dataclass
class Search:
    """The line search of each lane: where it stands, whither it looks, and what brackets a good step.

    Every field has the lane first. ``low`` is the best step that decreases enough (0 at first), ``high`` the other
    end of the bracket (``inf`` as long as there is none), each with the objective and its slope along the direction.
    """

    x: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    slope: Tensor
    step: Tensor
    trials: Tensor
    low: Tensor
    low_value: Tensor
    low_slope: Tensor
    low_gradient: Tensor
    high: Tensor
    high_value: Tensor
    high_slope: Tensor

    @classmethod
    def at(cls, x: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, step: Tensor) -> Search:
        """At the start of a line search; ``(k, n)`` points, gradients and directions, ``(k,)`` values and steps."""
        slope, none = (gradient * direction).sum(1), torch.zeros_like(value)
        infinite = torch.full_like(value, torch.inf)
        trials = torch.zeros_like(value, dtype=torch.int64)
        at_zero = (none, value, slope, gradient)
        return cls(x, value, gradient, direction, slope, step, trials, *at_zero, infinite, infinite, none)

    def where(self, lanes: Tensor, other: Search) -> Search:
        """Another one's lanes in the place of some, ``(k,)`` bool."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Search(*(torch.where(lanes if old.ndim == 1 else lanes.unsqueeze(1), new, old) for old, new in pairs))

    def keep(self, rows: Tensor) -> Search:
        """Without the other lanes."""
        return Search(*(getattr(self, field.name)[rows] for field in fields(self)))

    def try_step(self, value: Tensor, gradient: Tensor, *, curvature: float) -> tuple[Tensor, Tensor]:
        """Judge the current step by the objective and gradient there, and choose the next one.

        Returns:
            Lanes whose ``low`` is to be taken, as it meets the strong Wolfe conditions or as the trials are used up;
            lanes that found no decrease; each ``(k,)`` bool.
        """
        slope = (gradient * self.direction).sum(1)
        too_high = ~(value <= self.value + ARMIJO * self.step * self.slope)
        too_high |= (self.low > 0) & (value >= self.low_value)
        good = ~too_high & (slope.abs() <= -curvature * self.slope)
        bracketed = self.high.isfinite()
        passed = ~too_high & (torch.where(bracketed, slope * (self.high - self.low), slope) >= 0)
        last, last_value, last_slope = self.low, self.low_value, self.low_slope
        self.high = torch.where(too_high, self.step, torch.where(passed, last, self.high))
        self.high_value = torch.where(too_high, value, torch.where(passed, last_value, self.high_value))
        self.high_slope = torch.where(too_high, slope, torch.where(passed, last_slope, self.high_slope))
        self.low = torch.where(too_high, last, self.step)
        self.low_value = torch.where(too_high, last_value, value)
        self.low_slope = torch.where(too_high, last_slope, slope)
        self.low_gradient = torch.where(too_high.unsqueeze(1), self.low_gradient, gradient)
        self.trials = self.trials + 1
        bracketed = self.high.isfinite()
        width = (self.high - self.low).abs() * self.direction.abs().amax(1)
        narrow = width <= torch.finfo(value.dtype).eps * self.x.abs().amax(1).clamp_min(1e-3)
        over = ~good & ((self.trials >= TRIALS) | (bracketed & narrow))
        inside = _cubic(self.low, self.low_value, self.low_slope, self.high, self.high_value, self.high_slope)
        left, right = torch.minimum(self.low, self.high), torch.maximum(self.low, self.high)
        margin = 0.1 * (right - left)
        inside = torch.where(inside.isfinite(), inside, (left + right) / 2)
        inside = torch.minimum(torch.maximum(inside, left + margin), right - margin)
        beyond = _cubic(last, last_value, last_slope, self.low, self.low_value, self.low_slope)
        nearest, farthest = 1.01 * self.low - 0.01 * last, 10 * self.low
        beyond = torch.where(beyond.isfinite(), beyond, (nearest + farthest) / 2)
        beyond = torch.minimum(torch.maximum(beyond, nearest), farthest)
        self.step = torch.where(bracketed, inside, beyond)
        return good | (over & (self.low > 0)), over & (self.low == 0)


def _cubic(a: Tensor, at_a: Tensor, slope_a: Tensor, b: Tensor, at_b: Tensor, slope_b: Tensor) -> Tensor:
    """Minimiser of the cubic with these values and slopes (Nocedal and Wright, eq. 3.59); ``nan`` if there is none."""
    mean = slope_a + slope_b - 3 * (at_a - at_b) / (a - b)
    root = (b - a).sign() * (mean.square() - slope_a * slope_b).sqrt()
    return b - (b - a) * (slope_b + root - mean) / (slope_b - slope_a + 2 * root)


def minimise_lanes(
    problem: Problem,
    x: Tensor,
    *,
    evaluations: int,
    history: int = 50,
    curvature: float = 0.9,
    gradient_tolerance: float = 1e-9,
    change_tolerance: float = 1e-12,
    survivors: Callable[[int], Tensor | None] | None = None,
) -> Minimum:
    """Minimise ``l`` independent objectives of ``n`` variables.

    A direction along which no step decreases the objective is given up for steepest descent without history; a lane
    that finds no decrease there either has stalled.

    Args:
        problem: the objective of given lanes. A value or gradient that is not finite counts as a step too far.
        x: ``(l, n)`` where to start.
        evaluations: of the objective and its gradient, per lane, at most (at least 1).
        history: pairs of step and gradient change that are kept per lane.
        curvature: the slope at an accepted step is at most this share of the slope before; in (`ARMIJO`, 1).
        gradient_tolerance: largest absolute entry of the gradient at which a lane has converged.
        change_tolerance: decrease of the objective by a step at which a lane has converged.
        survivors: asked before each further evaluation with the number of those done: the lanes ``(l,)`` bool that
            may go on, or ``None`` for all.

    Returns:
        The best point of each lane.
    """
    lanes = torch.arange(len(x), device=x.device)
    x = x.detach()
    objective = problem(lanes)
    value, gradient = _finite(*objective(x))
    found = Minimum(x.clone(), value.clone(), torch.ones_like(lanes), torch.zeros_like(lanes))
    memory = History(x, history)
    search = Search.at(x, value, gradient, -gradient, _first_step(gradient))
    active = value.isfinite() & (gradient.abs().amax(1) > gradient_tolerance)
    for done in range(1, evaluations):
        alive = survivors(done) if survivors is not None else None
        if alive is not None:
            active = active & alive[lanes]
        remaining = active.nonzero().squeeze(1)
        if len(remaining) == 0:
            break
        if len(remaining) <= COMPACT * len(lanes):
            lanes, search, active = lanes[remaining], search.keep(remaining), active[remaining]
            memory.keep(remaining)
            objective = problem(lanes)
        point = search.x + search.step.unsqueeze(1) * search.direction
        value, gradient = _finite(*objective(point))
        found.evaluations[lanes] += active.to(lanes)
        better = (active & (value < found.value[lanes])).nonzero().squeeze(1)
        found.x[lanes[better]], found.value[lanes[better]] = point[better], value[better]
        taken, failed = search.try_step(value, gradient, curvature=curvature)
        taken, failed = taken & active, failed & active
        found.iterations[lanes] += taken.to(lanes)
        moved = search.low.unsqueeze(1) * search.direction
        memory.push(taken, moved, search.low_gradient - search.gradient)
        converged = search.low_gradient.abs().amax(1) <= gradient_tolerance
        converged |= search.value - search.low_value <= change_tolerance
        active = active & ~(taken & converged) & ~(failed & (memory.count == 0))
        memory.forget(failed)
        if bool((taken | failed).any()):
            search = search.where(taken | failed, _turn(search, moved, memory, taken | failed))
    return found


def _turn(search: Search, moved: Tensor, memory: History, turning: Tensor) -> Search:
    """The next line search of the turning lanes, from their best steps; of the others, nothing of use."""
    gradient = search.low_gradient
    direction = memory.direction(gradient)
    downhill = (direction * gradient).sum(1) < 0
    memory.forget(turning & ~downhill)
    direction = torch.where(downhill.unsqueeze(1), direction, -gradient)
    step = torch.where(memory.count == 0, _first_step(gradient), 1.0)
    return Search.at(search.x + moved, search.low_value, gradient, direction, step)


def _first_step(gradient: Tensor) -> Tensor:
    """A first guess along steepest descent that moves the point by at most 1 in all, ``(k,)``."""
    return 1 / gradient.abs().sum(1).clamp_min(1.0)


def _finite(value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Infinite, with gradient zero, where either is not finite."""
    finite = value.isfinite() & gradient.isfinite().all(1)
    return torch.where(finite, value, torch.inf), torch.where(finite.unsqueeze(1), gradient, 0.0)
