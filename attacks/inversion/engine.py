"""Runs recipes: victims x restarts as one batch of lanes, restarts dropped by gradient match, a counted budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .lbfgs import Objective, minimise_lanes
from .matching import chunks
from .objective import Matching, Prepared, evaluate
from .recipe import Recipe
from .regularisers import consensus


@dataclass(frozen=True)
class Solution:
    """The winner among each victim's restarts.

    Attributes:
        x: ``(v, n)`` its best iterate by the objective.
        lane: ``(v,)`` int64, which lane won.
        match: ``(v,)`` its gradient match, lower is better; ``inf`` if no lane was ever finite.
        spent: ``(v,)`` int64, gradients of the model's loss that all restarts of the victim were differentiated
            through: evaluations x local steps unrolled x rounds matched.
        evaluations: ``(v, restarts)`` int64, of the objective.
    """

    x: Tensor
    lane: Tensor
    match: Tensor
    spent: Tensor
    evaluations: Tensor


class Record:
    """The best iterate of each lane by the objective, its gradient match, and what was spent on it.

    Attributes:
        x: ``(l, n)``.
        value: ``(l,)`` the objective.
        match: ``(l,)`` the gradient match at the best iterate.
        evaluations: ``(l,)`` int64.
        alive: ``(l,)`` bool, lanes that were not dropped.
    """

    def __init__(self, x: Tensor, restarts: int) -> None:
        """Args: x: ``(l, n)`` where to start; restarts: consecutive lanes that belong to one victim."""
        self.x = x.detach().clone()
        self.value = torch.full(x.shape[:1], torch.inf).to(x)
        self.match = self.value.clone()
        self.evaluations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.alive = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self._restarts = restarts

    def add(self, lanes: Tensor, x: Tensor, value: Tensor, match: Tensor) -> None:
        """What one evaluation of some lanes gave."""
        self.evaluations[lanes] += 1
        better = value < self.value[lanes]
        self.value[lanes] = torch.where(better, value, self.value[lanes])
        self.match[lanes] = torch.where(better, match, self.match[lanes])
        self.x[lanes] = torch.where(better.unsqueeze(1), x.detach(), self.x[lanes])

    def halve(self) -> None:
        """Drop the worse half of each victim's remaining restarts, by gradient match; at least one stays."""
        left = self.alive.view(-1, self._restarts)
        # Dropped lanes come last even where nothing was ever finite.
        match = self.match.clamp_max(torch.finfo(self.match.dtype).max).view(-1, self._restarts)
        rank = match.masked_fill(~left, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
        keep = (left.sum(1, keepdim=True) + 1) // 2
        self.alive = ((rank < keep) & left).flatten()


def solve(
    matching: Matching,
    x: Tensor,
    recipe: Recipe,
    *,
    bounds: tuple[float, float],
    generator: torch.Generator,
) -> Solution:
    """Minimise the objective from every starting point, and choose each victim's winner by gradient match alone.

    Args:
        matching: what ``l = v * restarts`` lanes are to match; the restarts of a victim lie side by side.
        x: ``(l, n)`` where to start.
        recipe: how.
        bounds: lowest and highest value of an input.
        generator: of the recipe's own noise.
    """
    restarts, record = recipe.restarts, Record(x, recipe.restarts)
    floats = matching.states[0].numel() * matching.cost + 2 * recipe.history * x.shape[1] * (
        recipe.optimizer == "lbfgs"
    )
    for part in chunks(len(x) // restarts, restarts * floats, device=x.device):
        lanes = torch.arange(part.start * restarts, part.stop * restarts, device=x.device)
        own = Record(x[lanes], restarts)
        if recipe.optimizer == "lbfgs":
            _lbfgs(matching, lanes, own, x[lanes], recipe)
        else:
            _adam(matching, lanes, own, x[lanes], recipe, bounds=bounds, generator=generator)
        for name in ("x", "value", "match", "evaluations", "alive"):
            getattr(record, name)[lanes] = getattr(own, name)
    match = torch.where(record.alive, record.match, torch.inf).view(-1, restarts)
    lane = match.argmin(1) + restarts * torch.arange(len(match), device=x.device)
    evaluations = record.evaluations.view(-1, restarts)
    return Solution(record.x[lane], lane, record.match[lane], evaluations.sum(1) * matching.cost, evaluations)


def _lbfgs(matching: Matching, lanes: Tensor, record: Record, x: Tensor, recipe: Recipe) -> None:
    cuts = recipe.cuts()

    def problem(rows: Tensor) -> Objective:
        prepared = matching.of(lanes[rows])

        def objective(point: Tensor) -> tuple[Tensor, Tensor]:
            value, match, slope = evaluate(prepared, point)
            record.add(rows, point, value, match)
            return value, slope

        return objective

    def survivors(done: int) -> Tensor | None:
        if done not in cuts:
            return None
        record.halve()
        return record.alive

    minimise_lanes(
        problem, x, evaluations=recipe.evaluations, history=recipe.history, survivors=survivors if cuts else None
    )


def _adam(
    matching: Matching,
    lanes: Tensor,
    record: Record,
    x: Tensor,
    recipe: Recipe,
    *,
    bounds: tuple[float, float],
    generator: torch.Generator,
) -> None:
    """Adam with the constants of its paper, on the gradient or on its sign, each step projected on the box."""
    low, high = bounds
    box = _box(matching.numbers, *bounds) if recipe.box else lambda point: point
    rate, cuts = recipe.rate(), recipe.cuts()
    rows = torch.arange(len(x), device=x.device)
    prepared = matching.of(lanes)
    x = box(x.detach())
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for done in range(recipe.evaluations):
        if done in cuts:
            record.halve()
            keep = record.alive[rows]
            if not bool(keep.all()):
                rows, x, first, second = rows[keep], x[keep], first[keep], second[keep]
                prepared = replace(matching.of(lanes[rows]), prior=prepared.prior.of(keep))
        if recipe.group and done and done % recipe.group_every == 0:
            prepared = _agree(prepared, record, rows, x, recipe)
        value, match, slope = evaluate(prepared, x)
        record.add(rows, x, value, match)
        slope = slope.sign().nan_to_num() if recipe.optimizer == "signed-adam" else slope.nan_to_num()
        first = first.lerp(slope, 0.1)
        second = second.mul(0.999).addcmul_(slope, slope, value=0.001)
        scale = (second / (1 - 0.999 ** (done + 1))).sqrt_().add_(1e-8)
        step = recipe.learning_rate * (high - low) * rate(done)
        move = first / scale / (1 - 0.9 ** (done + 1))
        if recipe.langevin:
            drawn = torch.randn(x.shape, generator=generator, device=generator.device, dtype=torch.float32)
            move = move + recipe.langevin * drawn.to(x)
        x = box(x - step * move)


def _box(numbers: int, low: float, high: float) -> Callable[[Tensor], Tensor]:
    def project(x: Tensor) -> Tensor:
        if x.shape[1] == numbers:
            return x.clamp(low, high)
        return torch.cat([x[:, :numbers].clamp(low, high), x[:, numbers:]], 1)

    return project


def _agree(prepared: Prepared, record: Record, rows: Tensor, x: Tensor, recipe: Recipe) -> Prepared:
    """The objective with a fresh consensus of each victim's remaining restarts."""
    inputs, _ = prepared.matching.split(x)
    anchor = inputs.detach().clone()
    victims = rows // recipe.restarts
    for victim in sorted(set(victims.tolist())):
        mine = victims == victim
        anchor[mine] = consensus(anchor[mine], record.match[rows[mine]], most=recipe.group_shift)
    return replace(prepared, prior=replace(prepared.prior, anchor=anchor))
