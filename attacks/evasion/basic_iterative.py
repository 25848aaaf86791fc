"""FGM and BIM: the gradient step in the Euclidean norm, and the small signed steps that came before PGD."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsec.ball import AnyNorm

from .gradient_ascent import Passes, fgsm, pgd


def fgm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: AnyNorm = "l2",
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """The fast gradient method (Miyato, Dai and Goodfellow 2017, section 3): ``eps g / |g|_2``, `fgsm` in ``l2``.

    Args:
        model: inputs to logits ``(b, C)``; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: length of the perturbation, in units of the inputs; clipping can make it shorter.
        norm: in which it has that length: the Euclidean, as in the paper, or another as in `fgsm`.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        generator: draws nothing here; all attacks take one.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` inputs within the bounds.
    """
    return fgsm(model, x, y, eps=eps, norm=norm, bounds=bounds, targets=targets, passes=passes)


def bim(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step: float | None = None,
    steps: int | None = None,
    norm: AnyNorm = "linf",
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    drop_fooled: bool = True,
    passes: Passes | None = None,
) -> Tensor:
    """The basic iterative method (Kurakin, Goodfellow and Bengio 2017, section 2.2): steps from ``x`` itself.

    It is `pgd` without a random start and with the paper's steps: one grey value of 255 each, and as many as reach
    the edge of the ball and a little more, ``min(eps + 4, 1.25 eps)`` in grey values.

    Args:
        model: inputs to logits ``(b, C)``; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: radius of the ball, in units of the inputs.
        step: length of a step in the same norm; ``None`` for 1/255 of the (widest) range of an input.
        steps: how many; ``None`` for the paper's rule (rounded down, at least one).
        norm: of the ball; the paper knows ``linf``.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one. The paper takes the least likely.
        generator: draws nothing here; all attacks take one.
        drop_fooled: see `pgd`.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` inputs within the bounds and, up to rounding, within the ball.

    Raises:
        ValueError: a step that is not positive, with no number of steps.
    """
    step = float(torch.as_tensor(bounds[1] - bounds[0], dtype=torch.float64).max()) / 255 if step is None else step
    if steps is None:
        if step <= 0:
            raise ValueError(f"the number of steps follows from their length, which cannot be {step}")
        # a quotient that is whole but for rounding counts as whole
        steps = max(int(min(eps / step + 4, 1.25 * eps / step) + 1e-6), 1)
    return pgd(
        model,
        x,
        y,
        eps=eps,
        step=step,
        steps=steps,
        norm=norm,
        bounds=bounds,
        targets=targets,
        drop_fooled=drop_fooled,
        passes=passes,
    )
