"""MI-FGSM: signed steps along a running sum of gradients, whose points are misread by other models too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsec.ball import TINY, Norm, steepest
from fedsec.gradient import frozen

from .gradient_ascent import Passes, _ascent, _Ball


def momentum(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step: float | None = None,
    steps: int = 10,
    decay: float = 1.0,
    norm: Norm = "linf",
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """The momentum iterative method (Dong et al., CVPR 2018, algorithm 1; section 3.3 for ``l2``), for transfer.

    Every gradient is divided by the sum of its absolute values and added to the sum so far; nothing leaves the
    batch, because a point far beyond the boundary of one model is the likelier beyond that of another.

    Args:
        model: inputs to logits ``(b, C)``; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: radius of the ball, in units of the inputs.
        step: length of a step; ``None`` for ``eps / steps``.
        steps: how many.
        decay: weight of the sum so far; 0 forgets it.
        norm: of the ball.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` the last points, within the bounds and, up to rounding, within the ball.
    """
    x = x.detach()
    ball, length = _Ball.within(bounds, x, eps, norm), eps / steps if step is None else step
    points, heap = x.clone(), torch.zeros_like(x)
    with frozen(model), torch.no_grad():
        objective = _ascent(model, y, targets, passes)
        for _ in range(steps):
            gradient = torch.nan_to_num(objective(points, None)[0], nan=0.0)
            size = gradient.flatten(1).abs().sum(1).reshape(-1, *(1 for _ in x.shape[1:]))
            heap = decay * heap + gradient / size.clamp_min(TINY)
            points = ball.into(points + length * steepest(heap, norm), x)
    return points
