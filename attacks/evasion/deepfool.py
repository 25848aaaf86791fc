"""DeepFool: the smallest perturbation to the nearest boundary of a classifier, linearised again after every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedsec.gradient import frozen

from .gradient_ascent import Passes
from .hyperplane import Metric, box, dual_size, opened, over, size

_BEYOND = 1e-4
"""Added to the gap of the logits, so that a step is never of length zero where two logits are equal."""


def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = torch.inf,
    norm: Metric = "l2",
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """DeepFool (Moosavi-Dezfooli, Fawzi and Frossard, CVPR 2016, algorithm 2; section 3.3 for other norms).

    Every step goes to the nearest boundary of the linearised classifier; the overshoot is on the total perturbation
    and the point beyond it, clipped to the bounds, is looked at after every step (the original clips nothing). A
    misread example leaves the batch. The gradients of all candidate classes come from one forward pass.

    Args:
        model: inputs to logits ``(b, C)``, two classes or more; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: radius of the ball outside which a misread point does not count, in units of the inputs.
        norm: ``l2`` or ``linf``, in which steps are shortest.
        steps: linearisations at the most.
        overshoot: share of the total perturbation that is added to it.
        candidates: classes whose boundaries are compared, those with the highest logits of the input.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``. A feature whose
            bounds equal its value is never touched, and the gradient there counts as zero.
        targets: ``(b,)`` classes to be read instead: then theirs is the only boundary; ``None`` for any wrong one.
        generator: not used: nothing is drawn.
        passes: counts what it costs; one backward per candidate (per example and step with ``targets``).

    Returns:
        ``(b, *shape)`` inputs within the bounds: the misread point, or the input itself where it is misread
        already and where none was found inside the ball.

    Raises:
        ValueError: a norm that is neither ``l2`` nor ``linf``.
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f"DeepFool takes its steps in l2 or linf, not in {norm}")
    x = x.detach()
    low, high = box(bounds, x)
    found, total = x.clone(), torch.zeros_like(x)
    rows = torch.arange(len(x), device=x.device)
    others = x.new_empty((len(x), 0), dtype=torch.long)
    with frozen(model), torch.no_grad():
        for number in range(steps + 1):
            points = torch.clamp(x[rows] + (1 + overshoot) * total[rows], low[rows], high[rows])
            logits, pull = opened(model, points)
            if passes is not None:
                passes.forwards += len(rows)
            if not number:
                rivals = logits.scatter(1, y[:, None], -torch.inf)
                others = rivals.topk(min(candidates, logits.shape[1]) - 1).indices
                others = others if targets is None else targets[:, None]
            read = logits.argmax(-1)
            done = read != y[rows] if targets is None else read == targets[rows]
            found[rows[done]] = points[done]
            if done.all() or number == steps:
                break
            step = _shortest(logits, pull, y[rows], others[rows], low[rows] < high[rows], norm)
            if passes is not None:
                passes.backwards += int((~done).sum()) * others.shape[1]
            total[rows] += step
            rows = rows[~done]
        inside = size(found - x, norm) <= eps
        return torch.where(over(inside, x), found, x)


def _shortest(
    logits: Tensor, pull: Callable[[Tensor], Tensor], y: Tensor, others: Tensor, free: Tensor, norm: Metric
) -> Tensor:
    """The step to the nearest of the boundaries with the other classes ``(b, K)``, ignoring the bounds."""
    number = torch.arange(len(y), device=y.device)
    weights = logits.new_zeros((others.shape[1], *logits.shape))
    weights.scatter_(2, others.T[..., None], 1.0)
    weights[:, number, y] -= 1.0
    normals = pull(weights) * free
    gaps = (weights * logits).sum(2).abs()
    slopes = dual_size(normals, norm, lead=2)
    # A boundary without a slope is never reached, and no direction leads there.
    nearest = torch.where(slopes > 0, gaps / slopes, torch.inf).argmin(0)
    normal, slope = normals[nearest, number], slopes[nearest, number]
    length = torch.where(slope > 0, (gaps[nearest, number] + _BEYOND) / slope, 0.0)
    direction = normal.sign() if norm == "linf" else normal / over(slope.clamp_min(1e-30), normal)
    return over(length, normal) * direction
