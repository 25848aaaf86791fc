"""Carlini and Wagner: the smallest perturbations, by Adam on a weighted sum of distance and misreading."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsec.ball import TINY, Norm
from fedsec.gradient import frozen

from .adam_search import Aim, Euclidean, Largest, State
from .gradient_ascent import Passes
from .hyperplane import box, over, size

_TIGHTENINGS = 12


def carlini_wagner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = torch.inf,
    norm: Norm = "l2",
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    targets: Tensor | None = None,
    searches: int = 9,
    steps: int = 1000,
    rate: float = 0.01,
    confidence: float = 0.0,
    initial_constant: float = 1e-3,
    generator: torch.Generator | None = None,
    passes: Passes | None = None,
) -> Tensor:
    """The attacks of Carlini and Wagner (IEEE S&P 2017, sections VI.A and VI.C).

    With ``f = max(0, z_y - max z_other + confidence)`` (for a target ``t``: ``max z_other - z_t``) and points
    ``tanh w`` stretched over the bounds, Adam lowers

    - ``l2``: ``|d|_2^2 + c f``. The constant c grows tenfold until the point is misread and is bisected then; every
      constant starts anew at ``x``.
    - ``linf``: ``c f + sum max(0, |d_i| - tau)``, from the last misread point. The constant grows until a misread
      point lies within tau, up to 20; tau is then nine tenths of its distance.

    What is not as in the paper: constants, stops, steps and moments of Adam are an example's own, so its path does not
    depend on its batch, it goes on to its next constant at once and it leaves the batch when it is done. A search
    stops where a tenth of its steps has not lowered its best loss by a thousandth. The rate falls to a twentieth of
    the perturbation found so far, if that is less. In ``linf`` the constant grows tenfold, not twofold, and the first
    tau that fails is not the end: tau is then bisected, to two thousandths or ``searches`` times, at half the rate
    after each failure. At the end the perturbation is scaled (``linf``: cut) to the boundary by bisection.

    Args:
        model: inputs to logits ``(b, C)``, C at least 2; evaluated in eval mode and left as it was.
        x: ``(b, *shape)`` inputs within the bounds.
        y: ``(b,)`` true classes.
        eps: distance beyond which a misread point does not count, in units of the inputs.
        norm: ``l2`` or ``linf``, in which the perturbation is small.
        bounds: lowest and highest value of an input, finite: numbers, or tensors that broadcast to ``x``. A feature
            whose bounds are equal is never touched.
        targets: ``(b,)`` classes to be read instead; ``None`` for any wrong one.
        searches: ``l2``: constants per example. ``linf``: values of tau after the first that fails.
        steps: of Adam per constant, at the most. A fifth of the steps at five times the rate costs a fifth, for
            perturbations about half a percent longer on a small CNN.
        rate: of Adam, in units of w, which are about half the range of a feature: bounds that are dozens of times as
            wide as the perturbation need a smaller one.
        confidence: by how much the wrong logit shall lead.
        initial_constant: the first c.
        generator: not used: nothing is drawn.
        passes: counts what it costs.

    Returns:
        ``(b, *shape)`` inputs within the bounds: the nearest misread point found, by more than rounding, or the input
        itself where it is misread already and where none was found.

    Raises:
        ValueError: another norm, bounds that are not finite, or no search or step.
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f"Carlini and Wagner's attack is here for l2 and linf, not for {norm}")
    if searches < 1 or steps < 1:
        raise ValueError(f"at least one search of one step is needed, not {searches} of {steps}")
    x = x.detach()
    low, high = box(bounds, x)
    if not (low.isfinite().all() and high.isfinite().all()):
        raise ValueError("the change of variables needs finite bounds")
    aim = Aim(model, confidence, targets is not None, passes)
    classes = y if targets is None else targets
    search = Euclidean if norm == "l2" else Largest
    found = x.clone()
    with frozen(model), torch.no_grad():
        left = (~aim.already(x, classes)).nonzero()[:, 0]
        if not len(left):
            return found
        state = State.at(x[left], classes[left], low[left], high[left], rate, initial_constant)
        points = search(aim, searches, steps).run(state)
        points = _tightened(aim, x[left], points, classes[left], norm)
        inside = size(points - x[left], norm) <= eps
        found[left[inside]] = points[inside]
    return found


def _tightened(aim: Aim, x: Tensor, points: Tensor, classes: Tensor, norm: Norm) -> Tensor:
    """Perturbations scaled, or in ``linf`` cut, as far as the points stay misread."""
    delta = points - x
    length = size(delta, norm)
    inner, outer, found = torch.zeros_like(length), length, points
    for _ in range(_TIGHTENINGS):
        radius = (inner + outer) / 2
        tried = x + _within(delta, radius, length, norm)
        reached = aim.judge(tried, classes) & (radius < length)
        found = torch.where(over(reached, x), tried, found)
        inner, outer = torch.where(reached, inner, radius), torch.where(reached, radius, outer)
    return found


def _within(delta: Tensor, radius: Tensor, length: Tensor, norm: Norm) -> Tensor:
    wide = over(radius, delta)
    if norm == "linf":
        return delta.maximum(-wide).minimum(wide)
    return delta * over(radius / length.clamp_min(TINY), delta)
