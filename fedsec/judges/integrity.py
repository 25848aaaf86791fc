"""Judges of integrity: what an adversary did to the model, against the honest federation of the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.errors import DataError
from fedsec.judges.base import Judge, Judgement, Measurement, Outcome
from fedsec.judges.detection import detection
from fedsec.judges.detection import exhibits as detected

LAST = 5
"""Evaluated rounds at the end whose mean accuracy is reported."""
CAP = 10.0
"""Largest error of one example of a regression, in errors of the constant predictor; a diverged model gets it."""


def errors(predictions: Tensor, test: Examples, info: DatasetInfo) -> Tensor:
    """Error of each test example, ``(n,)`` fp64.

    Classes: 1 where the class is wrong. Next tokens: the share of wrong tokens of the sequence. Regression: the
    absolute error, in mean absolute errors of the best constant (the median of the test targets), at
    most `CAP`, which values that are not finite get.
    """
    if info.task == "regression":
        constant = (test.y - test.y.median()).abs().mean().clamp_min(torch.finfo(torch.float32).tiny)
        relative = (predictions.reshape(test.y.shape) - test.y).abs() / constant
        return torch.nan_to_num(relative.double(), nan=CAP, posinf=CAP).clamp_max(CAP)
    wrong = (predictions != test.y).double()
    return wrong.reshape(len(test), -1).mean(dim=1)


def chance_error(info: DatasetInfo) -> float:
    """Error of a guess: ``1 - 1/C``, and 1 for a regression, by the unit of `errors`."""
    if info.task == "regression":
        return 1.0
    return 1.0 - 1.0 / (info.vocabulary if info.task == "next-token" else len(info.classes))


def accuracy_drop(honest: Outcome, attacked: Outcome, test: Examples, info: DatasetInfo) -> Measurement:
    """Attack impact: how much accuracy the attack cost, paired by test example."""
    lost = errors(attacked.predictions, test, info) - errors(honest.predictions, test, info)
    regression = info.task == "regression"
    return Measurement(
        name="accuracy_drop",
        statistic="mean",
        units=lost,
        floor=0.0,
        ceiling=chance_error(info),
        unit="errors of a constant predictor" if regression else "share",
        description="Rise of the error on test examples against the honest federation of the same seed",
    )


def over_rounds(honest: Outcome, attacked: Outcome, info: DatasetInfo) -> tuple[Measurement, ...]:
    """Accuracy late in training and at its worst; a best round would flatter whoever picks it on test data."""
    if not attacked.accuracy or not honest.accuracy:
        return ()
    chance = 0.0 if info.task == "regression" else 1.0 - chance_error(info)
    score = "R^2" if info.task == "regression" else "accuracy"
    late, late_honest = _tensor(attacked.accuracy[-LAST:]), _tensor(honest.accuracy[-LAST:])
    half = len(attacked.accuracy) // 2
    worst, worst_honest = min(attacked.accuracy[half:]), min(honest.accuracy[len(honest.accuracy) // 2 :])
    unit = "R^2" if info.task == "regression" else "share"
    return (
        Measurement(
            name="accuracy_last",
            statistic="mean",
            units=late,
            floor_units=late_honest,
            ceiling=chance,
            unit=unit,
            description=f"Mean test {score} of the last {len(late)} evaluated rounds (lower is more harm)",
        ),
        Measurement(
            name="accuracy_worst",
            statistic="mean",
            units=_tensor((worst,)),
            floor_units=_tensor((worst_honest,)),
            ceiling=chance,
            unit=unit,
            description=f"Lowest test {score} of an evaluated round in the second half of training",
        ),
    )


def curves(honest: Outcome, attacked: Outcome) -> dict[str, Tensor]:
    """Accuracy per evaluated round of both federations, and who was dropped and suspected, for the report to draw."""
    found = detected(attacked)
    for name, outcome in (("honest", honest), ("attacked", attacked)):
        found[f"curve/{name}/x"] = _tensor(outcome.rounds)
        found[f"curve/{name}/y"] = _tensor(outcome.accuracy)
    return found


class AvailabilityJudge(Judge):
    """Whether the model became useless."""

    name: ClassVar[str] = "availability"
    summary: ClassVar[str] = "Test error: full success is a model no better than a guess, the floor is the honest model"

    def compare(
        self, honest: Outcome, attacked: Outcome, test: Examples, info: DatasetInfo, goal: Mapping[str, int]
    ) -> Judgement:
        """Error of the attacked model against the honest one.

        Args:
            honest: the federation without the adversary, same seed and defenses.
            attacked: the one with it.
            test: the examples behind the predictions.
            info: of the dataset.
            goal: not used.
        """
        regression = info.task == "regression"
        honest_errors = errors(honest.predictions, test, info)
        ceiling = chance_error(info)
        headline = Measurement(
            name="error",
            statistic="mean",
            units=errors(attacked.predictions, test, info),
            floor_units=honest_errors,
            ceiling=ceiling,
            headline=True,
            unit="errors of a constant predictor" if regression else "share",
            description="Mean absolute error of the attacked model over that of the best constant"
            if regression
            else "Share of test examples that the attacked model gets wrong",
        )
        notes: tuple[str, ...] = ()
        if float(honest_errors.mean()) > 0.9 * ceiling:
            notes = ("The honest model is hardly better than a guess, so there was little left to destroy.",)
        drop = () if regression else (accuracy_drop(honest, attacked, test, info),)
        return Judgement(
            measurements=(headline, *drop, *over_rounds(honest, attacked, info), *detection(attacked, honest)),
            exhibits=curves(honest, attacked),
            notes=notes,
        )


class TargetedJudge(Judge):
    """Whether one class is taken for another."""

    name: ClassVar[str] = "targeted"
    summary: ClassVar[str] = (
        "Share of the source class that is taken for the target class; the floor is how often the honest model does"
    )

    def compare(
        self, honest: Outcome, attacked: Outcome, test: Examples, info: DatasetInfo, goal: Mapping[str, int]
    ) -> Judgement:
        """How often the source class is predicted as the target class.

        Args:
            honest: the federation without the adversary, same seed and defenses.
            attacked: the one with it.
            test: the examples behind the predictions.
            info: of the dataset, a classification.
            goal: ``source`` and ``target``, codes of classes.

        Raises:
            ValueError: not a classification, or the goal lacks a class.
            DataError: no test example is of the source class.
        """
        if info.task != "classification":
            raise ValueError(f"the judge targeted measures classes, and {info.name} is a {info.task} task")
        if not {"source", "target"} <= goal.keys():
            raise ValueError(f"the judge targeted needs a goal with source and target, got {sorted(goal)}")
        source, target = goal["source"], goal["target"]
        asked = test.y == source
        if not bool(asked.any()):
            raise DataError(
                f"no test example of {info.name} is of the source class {source}, so nothing can be measured"
            )
        names = dict(enumerate(info.classes))
        taken = f"{names.get(source, source)} taken for {names.get(target, target)}"
        headline = Measurement(
            name="attack_success",
            statistic="mean",
            units=(attacked.predictions[asked] == target).double(),
            floor_units=(honest.predictions[asked] == target).double(),
            ceiling=1.0,
            headline=True,
            description=f"Share of test examples of the source class that are misread as wanted ({taken})",
        )
        spared = Measurement(
            name="error_elsewhere",
            statistic="mean",
            units=(attacked.predictions[~asked] != test.y[~asked]).double(),
            floor_units=(honest.predictions[~asked] != test.y[~asked]).double(),
            ceiling=chance_error(info),
            description="Share of wrong predictions among the other classes (low: the attack is hard to notice)",
        )
        side = (spared,) if bool((~asked).any()) else ()
        return Judgement(
            measurements=(
                headline,
                accuracy_drop(honest, attacked, test, info),
                *side,
                *over_rounds(honest, attacked, info),
                *detection(attacked, honest),
            ),
            exhibits=curves(honest, attacked),
        )


def _tensor(values: tuple[float, ...] | tuple[int, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


__all__ = [
    "AvailabilityJudge",
    "TargetedJudge",
    "accuracy_drop",
    "chance_error",
    "curves",
    "detection",
    "errors",
    "over_rounds",
]
