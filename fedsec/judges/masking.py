"""The masking battery: whether a model is robust, or only hides its gradients from the attacks that measured it.

Thirteen cheap comparisons, each of which a model with useful gradients passes whatever its robustness (Athalye,
Carlini and Wagner, ICML 2018, section 3.1; Carlini et al., arXiv 1902.06705, section 5; Pintor et al., arXiv
2106.09947, for the indicators of a failing attack). A failed check does not say how robust the model is: it says that
the attacks' figure is too high by an unknown amount.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedsec.gradient import frozen, input_gradient
from fedsec.judges.checks import Battery, Check
from fedsec.judges.masking_probes import Room, Trace, climb, cross_entropy, margin, misread, search, shake
from fedsec.models.dropout import CounterDropout

INPUTS = 128
"""Inputs that are read rightly, the first ones; all figures are shares of them."""
FEWEST = 16
"""With fewer, nothing is said."""
SIZES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 1 / 2)
"""Perturbations tried, in widths of the bounds (``linf``); the last one reaches mid-grey from everywhere."""
STEPS, LONG, QUERIES, DRAWS, REPEATS = 20, 60, 300, 20, 5
SCALE = 100.0
SLACK = 0.05
"""Share of the inputs by which a comparison may be off; a random search finds 1 to 4 % more on sound networks."""
LOOSE = 0.15
"""The same between different losses, and between few steps and many, which differ on sound networks too."""
INSIDE = 1e-3
BOUND_SLACK = 0.1


def battery(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    bounds: tuple[float | Tensor, float | Tensor] = (0.0, 1.0),
    generator: torch.Generator,
) -> Battery:
    """Run all checks.

    Args:
        model: inputs to logits ``(b, C)``, at least two; left as it was.
        x: ``(n, *shape)`` inputs, images or rows, on the model's device.
        y: ``(n,)`` true classes.
        bounds: lowest and highest value of an input: numbers, or tensors that broadcast to ``x``.
        generator: draws starts, squares and noise; on the CPU.

    A model of a hundred thousand parameters takes a few seconds on one core.
    """
    modal = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, CounterDropout)
    mode = [name for name, part in model.named_modules() if part.training and isinstance(part, modal)]
    with frozen(model):
        with torch.no_grad():
            right = ~misread(model(x[: 4 * INPUTS]), y[: 4 * INPUTS])
        rows = right.nonzero().flatten()[:INPUTS]
        if len(rows) < FEWEST:
            return Battery(checks=(), inputs=len(rows), size=0.0)
        x, y = x[rows].detach(), y[rows]
        low, high = (torch.as_tensor(b, dtype=x.dtype, device=x.device).expand_as(x) for b in bounds)
        found = _Probes(model, x, y, low, high, generator)
        ladder = [found.climb(size, margin) for size in SIZES]
        size = min(zip(SIZES[:-1], ladder, strict=False), key=lambda pair: abs(0.5 - _left(pair[1].fooled)))[0]
        checks = (
            *_comparisons(found, size, ladder[SIZES.index(size)].fooled),
            _sizes(ladder),
            _everything(ladder[-1]),
            *_gradients(found),
            *_outputs(found, mode),
        )
    return Battery(checks=tuple(sorted(checks, key=lambda c: _ORDER.index(c.name))), inputs=len(x), size=size)


_ORDER = (
    "logit-scale",
    "zero-gradient",
    "everything-allowed",
    "more-steps",
    "single-step",
    "scores-only",
    "size",
    "repeat",
    "noise",
    "failing-attack",
    "probabilities",
    "bounds",
    "mode",
)


@dataclass(frozen=True)
class _Probes:
    """The model and its inputs, and the small attacks on them."""

    model: nn.Module
    x: Tensor
    y: Tensor
    low: Tensor
    high: Tensor
    generator: torch.Generator

    def room(self, size: float) -> Room:
        return Room.around(self.x, size, self.low, self.high)

    def climb(
        self,
        size: float,
        objective: Callable[[Tensor, Tensor], Tensor],
        *,
        steps: int = STEPS,
        scale: float = 1.0,
        single: bool = False,
        rows: Tensor | None = None,
    ) -> Trace:
        """Ascent of an objective of the scaled logits; ``single`` is one step of the whole size from the input."""
        room = self.room(size)
        x, y, room = (self.x, self.y, room) if rows is None else (self.x[rows], self.y[rows], room.of(rows))
        if single:
            return climb(self.model, x, y, room, steps=1, objective=objective, length=1.0)
        start = torch.rand(self.x.shape[1:], generator=self.generator).to(self.x)
        return climb(self.model, x, y, room, steps=steps, objective=lambda z, t: objective(scale * z, t), start=start)

    def gradient(self, x: Tensor, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        def losses(leaf: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.model(leaf)
            return objective(logits, self.y), logits

        return torch.nan_to_num(input_gradient(losses, x)[0])


def _comparisons(found: _Probes, size: float, by_margin: Tensor) -> tuple[Check, ...]:
    """Attacks of the same size beside each other."""
    usual = found.climb(size, cross_entropy)
    scaled = {f: found.climb(size, cross_entropy, scale=f).fooled for f in (SCALE, 1 / SCALE)}
    one, up, down, free = (_left(t) for t in (usual.fooled, scaled[SCALE], scaled[1 / SCALE], by_margin))
    at_once = found.climb(size, cross_entropy, single=True).fooled
    both = usual.fooled | by_margin
    hardest = both.clone()
    for objective in (margin, cross_entropy):
        rows = (~hardest).nonzero().flatten()
        if len(rows):
            hardest[rows] = found.climb(size, objective, steps=LONG, rows=rows).fooled
    rows = (~hardest).nonzero().flatten()
    blind, shaken = torch.zeros_like(hardest), torch.zeros_like(hardest)
    if len(rows):
        x, y, room = found.x[rows], found.y[rows], found.room(size).of(rows)
        blind[rows] = search(found.model, x, y, room, queries=QUERIES, generator=found.generator)
        shaken[rows] = shake(found.model, x, y, room, draws=DRAWS, generator=found.generator)
    single, scores, noise = _share(at_once & ~usual.fooled), _share(blind), _share(shaken)
    # what the margin finds is a matter of the loss, which `logit-scale` tells
    stuck = _share(~hardest & ((usual.null > 0.5) | ~usual.rose))
    few, many = _left(both), _left(hardest)
    return (
        Check(
            name="logit-scale",
            # where larger logits help the attack they are too small, which hides nothing
            passed=one - down <= SLACK and (one - free <= LOOSE or up < one - SLACK),
            text=f"PGD on the cross-entropy leaves {one:.0%}; of logits a hundredth as large {down:.0%}, a hundred "
            f"times as large {up:.0%}, and on the margin, which has no scale, {free:.0%}.",
            figures={"as it is": one, "hundredth": down, "hundredfold": up, "margin": free},
        ),
        Check(
            name="more-steps",
            passed=few - many <= LOOSE,
            text=f"{STEPS} steps leave {few:.0%}, and {LONG} steps from two more starts {many:.0%}.",
            figures={"few": few, "many": many},
        ),
        Check(
            name="single-step",
            passed=single <= SLACK,
            text=f"One step fools {single:.0%} that {STEPS} steps of the same loss do not.",
            figures={"only one step": single},
        ),
        Check(
            name="scores-only",
            passed=scores <= SLACK,
            text=f"A search of {QUERIES} queries without gradients fools {scores:.0%} that no gradient attack does.",
            figures={"only scores": scores},
        ),
        Check(
            name="noise",
            passed=noise <= SLACK,
            text=f"{DRAWS} random corners fool {noise:.0%} that no gradient attack does.",
            figures={"only noise": noise},
        ),
        Check(
            name="failing-attack",
            passed=stuck <= SLACK,
            text=f"On {stuck:.0%} gradient attacks failed, and steps had no gradient or the loss did not rise.",
            figures={"stuck": stuck},
        ),
    )


def _sizes(ladder: list[Trace]) -> Check:
    left = [_left(trace.fooled) for trace in ladder]
    rise = max(b - a for a, b in pairwise(left))
    return Check(
        name="size",
        passed=rise <= SLACK,
        text="Accuracy under attack by size (widths of the bounds): "
        + ", ".join(f"{size:.3g}: {share:.0%}" for size, share in zip(SIZES, left, strict=True))
        + ".",
        figures={f"{size:.3g}": share for size, share in zip(SIZES, left, strict=True)},
    )


def _everything(last: Trace) -> Check:
    left = _left(last.fooled)
    return Check(
        name="everything-allowed",
        passed=left <= SLACK,
        text=f"Where every input may become mid-grey, the attack leaves {left:.0%}; it should leave none.",
        figures={"left": left},
    )


def _gradients(found: _Probes) -> tuple[Check, ...]:
    """Gradients at the inputs themselves, and just inside their bounds."""
    flat = {
        name: _share(found.gradient(found.x, objective).flatten(1).abs().amax(1) == 0)
        for name, objective in (("cross-entropy", cross_entropy), ("margin", margin))
    }
    inner = INSIDE * (found.high - found.low)
    at_low, at_high = found.x <= found.low, found.x >= found.high
    inside = found.x + inner * at_low.to(found.x) - inner * at_high.to(found.x)
    live = (found.gradient(inside, margin) != 0) & (at_low ^ at_high)
    dead = live & (found.gradient(found.x, margin) == 0)
    lost = float(dead.sum() / live.sum()) if bool(live.any()) else 0.0
    return (
        Check(
            name="zero-gradient",
            passed=max(flat.values()) <= SLACK,
            text=f"The cross-entropy has no gradient at {flat['cross-entropy']:.0%} of the inputs, the margin at "
            f"{flat['margin']:.0%}.",
            figures=flat,
        ),
        Check(
            name="bounds",
            passed=lost <= BOUND_SLACK,
            text=f"{lost:.0%} of the values at a bound lose a gradient that they have just inside it.",
            figures={"lost": lost},
        ),
    )


def _outputs(found: _Probes, mode: list[str]) -> tuple[Check, ...]:
    """What the model gives for equal inputs, and in which form."""
    with torch.no_grad():
        first, *again = (found.model(found.x) for _ in range(REPEATS))
        alone = torch.cat([found.model(part) for part in torch.split(found.x, (len(found.x) + 2) // 3)])
    scale = float(first.abs().max()) + 1e-12
    apart = max(float((other - first).abs().max()) for other in again) / scale
    mixed = float((alone - first).abs().max()) / scale
    sure = bool((first >= 0).all()) and bool(((first.sum(1) - 1).abs() < 1e-3).all())
    ways = "probabilities, whose gradients vanish where the model is sure" if sure else "logits"
    return (
        Check(
            name="repeat",
            passed=apart == 0,
            text=f"{REPEATS} passes of the same inputs differ by {apart:.2g} of the largest output"
            + (": attacks must average over the model's randomness." if apart else "."),
            figures={"difference": apart},
        ),
        Check(name="probabilities", passed=not sure, text=f"The outputs are {ways}.", figures={"sums": float(sure)}),
        Check(
            name="mode",
            passed=mixed <= 1e-3 and not mode,
            text=f"Outputs in thirds of the batch differ by {mixed:.2g} of the largest output, and {len(mode)} parts "
            "that behave otherwise in train mode are in it.",
            figures={"difference": mixed, "parts in train mode": float(len(mode))},
        ),
    )


def _share(marked: Tensor) -> float:
    return float(marked.double().mean())


def _left(fooled: Tensor) -> float:
    return 1.0 - _share(fooled)
