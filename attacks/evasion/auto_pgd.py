"""APGD: gradient ascent with momentum whose step halves where the loss no longer rises, without a step to tune."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from fedsec.ball import Norm, project, steepest
from fedsec.gradient import frozen, input_gradient

from .gradient_ascent import Passes
from .margins import Loss, attack_loss, clearly_misread

_MOMENTUM, _RISES = 0.75, 0.75


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    loss: Loss = "ce",
    steps: int = 100,
    restarts: int = 1,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    any_class: bool = False,
    generator: torch.Generator | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """Auto-PGD (Croce and Hein, ICML 2020, algorithm 1 and section 3).

    Steps of ``2 eps`` at first, mixed with the last movement (0.75 to 0.25). At checkpoints (after 0.22 of the steps,
    then in intervals that shorten by 0.03 down to 0.06) an example's step is halved if the loss rose in at most 0.75
    of the steps since the last one, or if the step was not halved there and the best loss is still the same; it then
    goes on from its best point with the gradient stored there. Losses are summed: an example's path does not depend on
    its batch. An example that is misread by more than rounding leaves the batch.

    Args:
        model: inputs to logits ``(b, C)``, C at least 2; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: radius of the ball, in units of the inputs.
        norm: ``linf`` or ``l2``.
        loss: ``ce`` or ``dlr`` (with fewer than 3 classes, with targets 4, the difference of logits alone).
        steps: per restart; one gradient more is taken at the start.
        restarts: starts per example.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        any_class: with ``targets``, every wrong class counts, as in AutoAttack.
        generator: draws the starts, on the sphere and then clipped to the bounds; ``None`` starts at ``x``.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` inputs within the bounds and, up to rounding, within the ball: the first misread point, ``x``
        itself where it is misread already, else the point of highest loss.

    Raises:
        ValueError: another norm, no step, or several restarts without a generator.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"APGD is here for linf and l2, not for {norm}")
    if steps < 1:
        raise ValueError(f"at least one step is needed, not {steps}")
    if restarts > 1 and generator is None:
        raise ValueError("further restarts are drawn and need a generator")
    x = x.detach()
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device).expand_as(x) for bound in bounds)
    found = x.clone()
    highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    with frozen(model), torch.no_grad():
        read = model(x).argmax(-1)
        if passes is not None:
            passes.forwards += len(x)
        done = read != y if targets is None or any_class else read == targets
        for _ in range(restarts):
            first = x if generator is None else _drawn(x, eps, norm, generator)
            left = (~done).nonzero()[:, 0]
            if not len(left):
                break
            wanted = None if targets is None else targets[left]
            field = _Field(x[left], y[left], wanted, low[left], high[left])
            climb = _Climb(model, eps, norm, loss, any_class, passes)
            points, losses = climb.run(torch.clamp(first[left], field.low, field.high), field, steps)
            better = losses > highest[left]
            found[left[better]], highest[left[better]] = points[better], losses[better]
            done = done | (highest == torch.inf)
    return found


def _drawn(x: Tensor, eps: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """Points at distance ``eps`` in random directions."""
    draw = torch.rand if norm == "linf" else torch.randn
    noise = draw(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
    noise = 2 * noise - 1 if norm == "linf" else noise
    size = torch.linalg.vector_norm(noise.flatten(1), torch.inf if norm == "linf" else 2, dim=1).clamp_min(1e-12)
    return x + eps * noise / _wide(size, x)


@dataclass(frozen=True)
class _Field:
    """What does not move, a row per example."""

    centre: Tensor
    y: Tensor
    targets: Tensor | None
    low: Tensor
    high: Tensor

    def of(self, keep: Tensor) -> _Field:
        wanted = None if self.targets is None else self.targets[keep]
        return _Field(self.centre[keep], self.y[keep], wanted, self.low[keep], self.high[keep])


@dataclass
class _State:
    """What moves, a row per example."""

    point: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    checked_loss: Tensor
    step: Tensor
    halved: Tensor
    rises: Tensor

    def of(self, keep: Tensor) -> _State:
        return _State(*(getattr(self, part.name)[keep] for part in fields(self)))


@dataclass(frozen=True)
class _Climb:
    """One restart of every example in a batch."""

    model: nn.Module
    eps: float
    norm: Norm
    loss: Loss
    any_class: bool
    passes: Passes | None

    def run(self, first: Tensor, field: _Field, steps: int) -> tuple[Tensor, Tensor]:
        """The first misread point with an infinite loss, or the point of highest loss with it."""
        ends, losses = first.clone(), torch.full_like(field.y, 0, dtype=first.dtype)
        rows = torch.arange(len(first), device=first.device)
        gradient, loss, fooled = self._seen(first, field)
        step = torch.full_like(loss, 2 * self.eps)
        halved = torch.ones_like(fooled)
        state = _State(
            first, first, gradient, loss, first, gradient, loss, loss, step, halved, torch.zeros_like(field.y)
        )
        interval, least, shorter = (max(int(part * steps), 1) for part in (0.22, 0.06, 0.03))
        since = 0
        for number in range(steps + 1):
            if number:
                moved = self._moved(state, field, _MOMENTUM if number > 1 else 1.0)
                gradient, loss, fooled = self._seen(moved, field)
                better = loss > state.best_loss
                wide = _wide(better, moved)
                state = _State(
                    point=moved,
                    before=state.point,
                    gradient=gradient,
                    loss=loss,
                    best=torch.where(wide, moved, state.best),
                    best_gradient=torch.where(wide, gradient, state.best_gradient),
                    best_loss=torch.where(better, loss, state.best_loss),
                    checked_loss=state.checked_loss,
                    step=state.step,
                    halved=state.halved,
                    rises=state.rises + (loss > state.loss),
                )
                since += 1
            if fooled.any():
                ends[rows[fooled]], losses[rows[fooled]] = state.point[fooled], torch.inf
                keep = ~fooled
                rows, state, field = rows[keep], state.of(keep), field.of(keep)
                if not len(rows):
                    return ends, losses
            if since == interval:
                state = _checked(state, since)
                interval, since = max(interval - shorter, least), 0
        ends[rows], losses[rows] = state.best, state.best_loss
        return ends, losses

    def _seen(self, points: Tensor, field: _Field) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient, loss and whether each point is clearly misread."""

        def objective(leaf: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.model(leaf)
            return attack_loss(logits, field.y, field.targets, self.loss), logits

        gradient, logits = input_gradient(objective, points)
        if self.passes is not None:
            self.passes.forwards += len(points)
            self.passes.backwards += len(points)
        losses = attack_loss(logits, field.y, field.targets, self.loss)
        return gradient, losses, clearly_misread(logits, field.y, None if self.any_class else field.targets)

    def _moved(self, state: _State, field: _Field, share: float) -> Tensor:
        ahead = state.point + _wide(state.step, state.point) * steepest(state.gradient, self.norm)
        ahead = self._into(ahead, field)
        mixed = state.point + share * (ahead - state.point) + (1 - share) * (state.point - state.before)
        return self._into(mixed, field)

    def _into(self, points: Tensor, field: _Field) -> Tensor:
        inside = field.centre + project(points - field.centre, self.eps, self.norm)
        return torch.clamp(inside, field.low, field.high)


def _checked(state: _State, since: int) -> _State:
    """The state after a checkpoint."""
    halve = (state.rises <= _RISES * since) | (~state.halved & (state.checked_loss >= state.best_loss))
    wide = _wide(halve, state.point)
    return _State(
        point=torch.where(wide, state.best, state.point),
        before=state.before,
        gradient=torch.where(wide, state.best_gradient, state.gradient),
        loss=state.loss,
        best=state.best,
        best_gradient=state.best_gradient,
        best_loss=state.best_loss,
        checked_loss=state.best_loss,
        step=torch.where(halve, state.step / 2, state.step),
        halved=halve,
        rises=torch.zeros_like(state.rises),
    )


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1 for _ in like.shape[1:]))
