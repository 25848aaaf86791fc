"""AutoAttack: four attacks, each on what those before it left, and the worst case of every example, with its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedsec.gradient import frozen, input_gradient

from .auto_pgd import apgd
from .fab import fab
from .forecast import Forecast
from .gradient_ascent import Passes
from .margins import Loss, clearly_misread, margin
from .square import square

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
_GLANCE, _PURSUED, _PATIENCE, _AGAIN = 25, 2, (20, 10, 5), 0.05
_WORTHWHILE = 5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One attack of the cascade.

    Attributes:
        name: ``clean`` (reading the inputs), ``apgd-ce``, ``apgd-t``, ``fab-t`` or ``square``.
        robust: ``(b,)`` whether an example was read correctly and is not misread after this stage and all before.
        forwards: examples passed through the model in this stage.
        backwards: examples passed through its gradient.
    """

    name: str
    robust: Tensor
    forwards: int
    backwards: int

    @property
    def accuracy(self) -> float:
        """Share of all examples that is robust after this stage."""
        return float(self.robust.double().mean())


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """What AutoAttack found.

    Attributes:
        x_adv: ``(b, *shape)`` within ball and bounds: the first misread point (``x`` where that is misread), else the
            point at which the true class's lead is lowest of those seen.
        outcome: what broke each example, the name of a stage, or ``robust``.
        stages: in the order in which they ran; one that had nothing left costs nothing.
    """

    x_adv: Tensor
    outcome: tuple[str, ...]
    stages: tuple[Stage, ...]

    @property
    def robust(self) -> Tensor:
        """``(b,)`` whether an example withstood everything: the worst case over the attacks."""
        return self.stages[-1].robust

    @property
    def accuracy(self) -> float:
        """Robust accuracy over all examples."""
        return self.stages[-1].accuracy

    @property
    def forwards(self) -> int:
        """Examples passed through the model, over all stages."""
        return sum(stage.forwards for stage in self.stages)

    @property
    def backwards(self) -> int:
        """Examples passed through its gradient, over all stages."""
        return sum(stage.backwards for stage in self.stages)


def auto_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Literal["linf", "l2", "l1"] = "linf",
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    steps: int = 100,
    most_targets: int = 9,
    queries: int = 5000,
    thorough: bool = False,
    progress: Callable[[Stage], None] | None = None,
    passes: Passes | None = None,
) -> Cascade:
    """The standard AutoAttack (Croce and Hein, ICML 2020, section 5): APGD-CE, APGD-T, FAB-T, Square on the survivors.

    It asks the same as the authors' in fewer passes, and each saving can only make it give up too early, never
    claim a point that is not misread:

    - APGD-T tries every target for 25 steps and follows for the whole number of steps only the two whose class came
      nearest to leading;
    - FAB-T takes the targets in that order and leaves a search that after 20 steps (10 for the second target, 5 from
      the third on) is not within 1.5 ``eps``, or has not come nearer for as many;
    - Square leaves an example whose margin falls so slowly that four times its progress would not reach zero, if the
      attacks by gradients agree (`Forecast`); where gradients are masked it makes all its queries. Part of what that
      saves goes into a second search for the examples that are nearest to being misread: 5 % of those it began with
      (none where that is fewer than five).

    ``thorough`` does without all three. With fewer than 4 classes the targeted ratio loss is the difference of logits.

    Args:
        model: inputs to logits ``(b, C)``, C at least 2; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds: images, or rows of features.
        y: ``(b,)`` true classes.
        eps: radius of the ball, in units of the inputs.
        norm: ``linf`` or ``l2``.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        targets: no; the cascade asks whether an input can be misread at all, and picks its own.
        generator: draws the starts and the squares; ``None`` for one with seed 0.
        steps: of APGD and FAB, per target.
        most_targets: classes that the targeted attacks aim at, the likeliest first; fewer if there are fewer.
        queries: of Square.
        thorough: every target and query to the end, as the authors do.
        progress: is told of every stage when it ends.
        passes: counts what everything costs together.

    Returns:
        The points, what broke each example, and accuracy and cost stage by stage.

    Raises:
        ValueError: ``l1``, for which APGD and Square are missing; a negative ``eps``; targets.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"the cascade is here for linf and l2, not for {norm}: APGD and Square know no such ball")
    if not eps >= 0:
        raise ValueError(f"a radius cannot be {eps}")
    if targets is not None:
        raise ValueError("the cascade has no targeted form: use apgd, fab and square with targets")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    run = _Run(model, x.detach(), y, eps, norm, bounds, generator)
    stages: list[Stage] = []
    attacks: tuple[Callable[[], object], ...] = (
        run.read,
        lambda: run.climb("ce", steps),
        lambda: run.aim(steps, most_targets, thorough),
        lambda: run.approach(steps, thorough),
        lambda: run.search(queries, thorough),
    )
    with frozen(model), torch.no_grad():
        for name, attack in zip(("clean", *STAGES), attacks, strict=True):
            before = run.passes
            run.passes = Passes()
            attack()
            stage = Stage(
                name=name,
                robust=run.alive.clone(),
                forwards=run.passes.forwards,
                backwards=run.passes.backwards,
            )
            run.passes = Passes(before.forwards + stage.forwards, before.backwards + stage.backwards)
            stages.append(stage)
            if progress is not None:
                progress(stage)
    if passes is not None:
        passes.forwards += run.passes.forwards
        passes.backwards += run.passes.backwards
    return Cascade(x_adv=run.found, outcome=_outcome(stages), stages=tuple(stages))


def _outcome(stages: list[Stage]) -> tuple[str, ...]:
    fell = torch.stack([~stage.robust for stage in stages])
    first = torch.where(fell.any(0), fell.int().argmax(0), len(stages))
    names = (*(stage.name for stage in stages), "robust")
    return tuple(names[number] for number in first.tolist())


class _Run:
    """The state between stages, a row per example: where it is nearest to being misread, and whether it is."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        norm: Literal["linf", "l2"],
        bounds: tuple[float | Tensor, float | Tensor],
        generator: torch.Generator,
    ) -> None:
        self.model, self.x, self.y, self.eps, self.norm, self.generator = model, x, y, eps, norm, generator
        self.low, self.high = (torch.as_tensor(b, dtype=x.dtype, device=x.device).expand_as(x) for b in bounds)
        self.passes = Passes()
        self.found, self.alive = x.clone(), torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.clean = self.lead = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        self.order = torch.zeros(len(x), 0, dtype=torch.long, device=x.device)

    @property
    def rows(self) -> Tensor:
        """The survivors."""
        return self.alive.nonzero()[:, 0]

    def logits(self, points: Tensor) -> Tensor:
        self.passes.forwards += len(points)
        out: Tensor = self.model(points)
        return out

    def read(self) -> None:
        """The inputs themselves, and the classes in the order of their scores."""
        if not len(self.x):
            return
        logits = self.logits(self.x)
        self.alive = logits.argmax(1) == self.y
        self.clean = self.lead = -margin(logits, self.y)
        self.order = logits.scatter(1, self.y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]

    def settle(self, rows: Tensor, points: Tensor) -> Tensor:
        """Keep the points that are better than what these rows had, and say goodbye to those misread; the logits."""
        logits = self.logits(points)
        lead, fallen = -margin(logits, self.y[rows]), clearly_misread(logits, self.y[rows], None)
        better = fallen | (lead < self.lead[rows])
        self.found[rows[better]] = points[better]
        self.lead = self.lead.index_put((rows[better],), lead[better])
        self.alive[rows[fallen]] = False
        return logits

    def climb(self, loss: Loss, steps: int, rows: Tensor | None = None, targets: Tensor | None = None) -> Tensor:
        """APGD on these survivors, any class counting; the logits of where it ended."""
        rows = self.rows if rows is None else rows
        if not len(rows):
            return self.x.new_zeros(0, self.order.shape[1] + 1)
        points = apgd(
            self.model,
            self.x[rows],
            self.y[rows],
            eps=self.eps,
            norm=self.norm,
            loss=loss,
            steps=steps,
            bounds=(self.low[rows], self.high[rows]),
            targets=targets,
            any_class=targets is not None,
            generator=self.generator,
            passes=self.passes,
        )
        return self.settle(rows, points)

    def aim(self, steps: int, most: int, thorough: bool) -> None:
        """APGD-T: a glance at every target, then the whole way for the best; the targets end in the order found."""
        self.order = self.order[:, :most]
        count = self.order.shape[1]
        glance = count > _PURSUED + 1 and steps > _GLANCE and not thorough
        ahead = torch.full(self.order.shape, -torch.inf, dtype=self.x.dtype, device=self.x.device)
        for number in range(count):
            rows = self.rows
            targets = self.order[rows, number]
            logits = self.climb("dlr", _GLANCE if glance else steps, rows, targets)
            own = logits.gather(1, self.y[rows, None])
            ahead[rows, number] = (logits.gather(1, targets[:, None]) - own)[:, 0]
        self.order = self.order.gather(1, ahead.argsort(dim=1, descending=True, stable=True))
        for number in range(_PURSUED if glance else 0):
            rows = self.rows
            self.climb("dlr", steps, rows, self.order[rows, number])

    def approach(self, steps: int, thorough: bool) -> None:
        """FAB-T, one target after the other."""
        for number in range(self.order.shape[1]):
            rows = self.rows
            if not len(rows):
                return
            patience = _PATIENCE[min(number, len(_PATIENCE) - 1)]
            points = fab(
                self.model,
                self.x[rows],
                self.y[rows],
                eps=self.eps,
                norm=self.norm,
                steps=steps,
                targets=self.order[rows, number],
                any_class=True,
                bounds=(self.low[rows], self.high[rows]),
                patience=None if thorough else patience,
                passes=self.passes,
            )
            moved = (points != self.x[rows]).flatten(1).any(1)
            if moved.any():
                self.settle(rows[moved], points[moved])

    def search(self, queries: int, thorough: bool) -> None:
        """Square, with a forecast of what more queries would bring."""
        rows = self.rows
        if not len(rows):
            return
        forecast = None if thorough else Forecast(self.clean[rows], self.lead[rows], self.dead(rows), queries)
        self.square(rows, queries, forecast)
        again = 0 if forecast is None else min(int(_AGAIN * len(rows)), forecast.given_up // 2)
        left = self.rows
        if again >= _WORTHWHILE and len(left):
            near = (self.lead[left] / self.clean[left]).argsort()[:again]
            self.square(left[near], queries, None)

    def square(self, rows: Tensor, queries: int, forecast: Forecast | None) -> None:
        points = square(
            self.model,
            self.x[rows],
            self.y[rows],
            eps=self.eps,
            norm=self.norm,
            queries=queries,
            bounds=(self.low[rows], self.high[rows]),
            generator=self.generator,
            give_up=forecast,
            passes=self.passes,
        )
        self.settle(rows, points)

    def dead(self, rows: Tensor) -> Tensor:
        """Whether the gradient of the cross-entropy vanishes where gradients came nearest to their aim."""

        def objective(leaf: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.model(leaf)
            return nn.functional.cross_entropy(logits, self.y[rows], reduction="none"), logits

        gradient, _ = input_gradient(objective, self.found[rows])
        self.passes.forwards += len(rows)
        self.passes.backwards += len(rows)
        return (torch.nan_to_num(gradient) == 0).flatten(1).all(1)
