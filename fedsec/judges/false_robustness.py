"""Whether an adversary made the model look robust: what the usual check finds, and what it overlooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.gradient import frozen
from fedsec.judges.base import Judge, Judgement, Measurement, Outcome
from fedsec.judges.detection import detection
from fedsec.judges.integrity import accuracy_drop, curves, over_rounds
from fedsec.judges.masking import battery
from fedsec.judges.masking_probes import Room, climb, cross_entropy, margin, misread, search
from fedsec.protocol.outcome import NotApplicable
from fedsec.randomness import generator

INPUTS = 500
"""Test inputs that are looked at, the first ones."""
STEPS, QUERIES, COOLED = 40, 300, 0.01
"""Gradient steps of each attack, queries of the search without gradients, and a factor that takes logits back."""


@dataclass(frozen=True)
class Fooled:
    """Which inputs were misread under attack.

    Attributes:
        usual: ``(n,)`` bool, under the check that everybody makes: PGD on the cross-entropy, one random start.
        strong: ``(n,)`` bool, under that or one of the attacks that do not depend on the size of the logits.
    """

    usual: Tensor
    strong: Tensor


def fooled(
    net: nn.Module, x: Tensor, y: Tensor, eps: float, *, bounds: tuple[float, float], random: torch.Generator
) -> Fooled:
    """Attack a model in ``linf``; the attacks are those of the masking battery.

    The strong ones are the gradient steps on the margin and on the cross-entropy of logits a hundredth as large, and
    a search that sees scores only.

    Args:
        net: inputs to logits, in eval mode; left as it was.
        x: ``(n, *shape)`` inputs.
        y: ``(n,)`` classes.
        eps: size, in widths of the bounds.
        bounds: lowest and highest value of an input.
        random: draws the starts and squares; on the CPU.
    """
    low, high = (torch.full_like(x, bound) for bound in bounds)
    room = Room.around(x, eps, low, high)
    start = torch.rand(x.shape[1:], generator=random).to(x)
    with frozen(net):
        with torch.no_grad():
            usual = misread(net(x), y)
        usual = usual | climb(net, x, y, room, steps=STEPS, objective=cross_entropy, start=start).fooled
        strong = usual.clone()
        for objective in (margin, lambda logits, classes: cross_entropy(COOLED * logits, classes)):
            rows = (~strong).nonzero().flatten()
            if len(rows):
                trace = climb(net, x[rows], y[rows], room.of(rows), steps=STEPS, objective=objective, start=start)
                strong[rows] = trace.fooled
        rows = (~strong).nonzero().flatten()
        if len(rows):
            strong[rows] = search(net, x[rows], y[rows], room.of(rows), queries=QUERIES, generator=random)
    return Fooled(usual, strong)


class FalseRobustnessJudge(Judge):
    """Asks the attacked model and the honest one of the same seed the same questions."""

    name: ClassVar[str] = "false-robustness"
    summary: ClassVar[str] = (
        "Share of test inputs that PGD does not fool and other attacks of the same size do; the floor is that of the "
        "honest model"
    )

    def compare(
        self, honest: Outcome, attacked: Outcome, test: Examples, info: DatasetInfo, goal: Mapping[str, int]
    ) -> Judgement:
        """How robust the model seems and is, and whether the battery notices.

        Args:
            honest: the federation without the adversary, same seed and defenses, with its model.
            attacked: the one with it, with its model.
            test: the examples behind the predictions.
            info: of the dataset, a classification.
            goal: ``eps_thousandths``, the size of the attacks in thousandths of the width of the inputs' bounds.

        Raises:
            NotApplicable: there are no classes, or no bounds of the inputs.
            ValueError: an outcome without its model, or a goal without a size.
        """
        if info.task != "classification" or info.bounds is None:
            raise NotApplicable(f"robustness has no meaning for the {info.task} task {info.name}")
        if honest.net is None or attacked.net is None or "eps_thousandths" not in goal:
            raise ValueError("the judge false-robustness needs both models and a goal with eps_thousandths")
        eps = goal["eps_thousandths"] / 1000
        x, y = test.x[:INPUTS], test.y[:INPUTS]
        found = [
            fooled(net, x, y, eps, bounds=info.bounds, random=generator(0, "false robustness"))
            for net in (attacked.net, honest.net)
        ]
        hidden, hidden_before = (one.strong & ~one.usual for one in found)
        believed = battery(
            attacked.net, x, y, bounds=info.bounds, generator=generator(0, "false robustness", "battery")
        )
        size = f"size {eps:g} of the width of the bounds (linf)"
        measurements = (
            Measurement(
                name="false_robustness",
                statistic="mean",
                units=hidden.double(),
                floor_units=hidden_before.double(),
                headline=True,
                description="Share of test inputs that PGD on the cross-entropy does not fool and an attack that does "
                f"not depend on the size of the logits does, {size}",
            ),
            Measurement(
                name="naive_accuracy",
                statistic="mean",
                units=(~found[0].usual).double(),
                floor_units=(~found[1].usual).double(),
                description=f"Accuracy under PGD on the cross-entropy, {size}; what a server that checks so believes",
            ),
            Measurement(
                name="robust_accuracy",
                statistic="mean",
                units=(~found[0].strong).double(),
                floor_units=(~found[1].strong).double(),
                description=f"Accuracy under the worst of these attacks for each input, {size}",
            ),
            accuracy_drop(honest, attacked, test, info),
            *over_rounds(honest, attacked, info),
            *detection(attacked, honest),
        )
        return Judgement(
            measurements=measurements,
            exhibits=curves(honest, attacked),
            notes=(
                f"The attacked model: {believed.text}",
                f"Its margins between logits are {_margins(attacked.net, x) / _margins(honest.net, x):.3g} times as "
                "large as those of the honest model (medians).",
            ),
            checks=believed.checks,
        )


def _margins(net: nn.Module, x: Tensor) -> float:
    """Median difference of the two largest logits."""
    with torch.no_grad():
        first, second = net(x).topk(2, dim=1).values.unbind(1)
    return float((first - second).median().clamp_min(torch.finfo(x.dtype).tiny))
