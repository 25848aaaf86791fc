"""How near reconstructions come to the true examples, beside what adversaries without the view would show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsec.judges.base import Measurement, Truth
from fedsec.judges.identification import contest, nearest_public
from fedsec.judges.image_quality import PSNR_CAP, psnr, squared_error, ssim
from fedsec.judges.matching import Pairs, pair_up, placebo
from fedsec.protocol.evidence import Reconstructions

SUCCESS = (("1e-3", 1e-3), ("1e-2", 1e-2))
"""Mean squared error, in squares of the bounds' width, up to which a reconstruction counts as a copy."""


@dataclass(frozen=True)
class Case:
    """The pairs to measure, and what adversaries without the view would have in their place.

    Attributes:
        pairs: reconstructions and the true examples that they are matched to.
        decoys: ``(c, *shape)`` of each pair's contest.
        blind: guesses ``(p, *shape)`` by name, made with the class at most.
        nearest: ``(p, *shape)`` the public example most like each true one; empty if there is none.
        elsewhere: the same reconstructions matched to examples that the updates were not computed on.
        elsewhere_decoys: of each of those pairs.
    """

    pairs: Pairs
    decoys: tuple[Tensor, ...]
    blind: dict[str, Tensor]
    nearest: Tensor
    elsewhere: Pairs
    elsewhere_decoys: tuple[Tensor, ...]

    @classmethod
    def of(cls, evidence: Reconstructions, truth: Truth) -> Case:
        """Match, and draw contests and guesses.

        Raises:
            ValueError: a source is unknown, or the inputs are tokens.
        """
        pairs = pair_up(evidence, truth)
        elsewhere, public = placebo(evidence, truth)
        classes = truth.info.task == "classification"
        mine = [contest(y, public, classes=classes, generator=truth.generator) for y in pairs.labels]
        theirs = [contest(y, public, classes=classes, generator=truth.generator) for y in elsewhere.labels]
        names = tuple(mine[0].blind) if mine else ()
        return cls(
            pairs=pairs,
            decoys=tuple(one.decoys for one in mine),
            blind={name: torch.stack([one.blind[name] for one in mine]) for name in names},
            nearest=nearest_public(pairs.true, pairs.labels, public, classes=classes),
            elsewhere=elsewhere,
            elsewhere_decoys=tuple(one.decoys for one in theirs),
        )


def copies(case: Case, truth: Truth) -> list[Measurement]:
    """Shares of targets that were copied up to an error, or come nearer than public data does."""
    pairs = case.pairs
    low, high = truth.info.bounds or (0.0, 1.0)
    lost = torch.zeros(len(pairs.unmatched), dtype=torch.float64)
    clusters = torch.cat([pairs.clusters, pairs.unmatched])
    guesses = list(case.blind.values())
    public = [*guesses, case.nearest] if len(case.nearest) else guesses
    rows = []
    for label, threshold in SUCCESS:

        def copied(found: Tensor, true: Tensor, most: float = threshold * (high - low) ** 2) -> Tensor:
            return (squared_error(found, true) <= most).double()

        floors = [copied(guess, pairs.true) for guess in public]
        floors += [copied(case.elsewhere.found, case.elsewhere.true)] if len(case.elsewhere.found) else []
        rows.append(
            Measurement(
                name=f"success@{label}",
                statistic="mean",
                units=torch.cat([copied(pairs.found, pairs.true), lost]),
                clusters=clusters,
                floor_units=max(floors, key=lambda units: float(units.mean()), default=None),
                description=f"Targets with a mean squared error of {label} at most, in squares of the inputs' range",
            )
        )
    if len(case.nearest):
        public_error = squared_error(case.nearest, pairs.true)
        nearer = [(squared_error(found, pairs.true) < public_error).double() for found in (pairs.found, *guesses)]
        rows.append(
            Measurement(
                name="beats_public",
                statistic="mean",
                units=torch.cat([nearer[0], lost]),
                clusters=clusters,
                floor_units=max(nearer[1:], key=lambda units: float(units.mean())),
                description="Targets whose reconstruction is nearer to the truth than all public examples of its class",
            )
        )
    return rows


def quality(case: Case, truth: Truth) -> list[Measurement]:
    """Error of each matched pair; for images also PSNR, with its best, median and worst pair, and SSIM."""
    pairs, elsewhere = case.pairs, case.elsewhere
    bounds = truth.info.bounds or (0.0, 1.0)
    guesses = [*case.blind.values(), *([case.nearest] if len(case.nearest) else [])]

    def measured(
        name: str, score: Callable[[Tensor, Tensor], Tensor], ceiling: float, unit: str, lower: bool, text: str
    ) -> Measurement:
        floors = [score(guess, pairs.true) for guess in guesses]
        if len(elsewhere.found):
            floors.append(score(elsewhere.found, elsewhere.true))
        pick = min if lower else max
        return Measurement(
            name=name,
            statistic="mean",
            units=score(pairs.found, pairs.true).double(),
            clusters=pairs.clusters,
            floor_units=pick(floors, key=lambda units: float(units.mean())).double() if floors else None,
            ceiling=ceiling,
            unit=unit,
            description=text,
        )

    rows = [measured("mse", squared_error, 0.0, "squared input units", True, "Mean squared error of each matched pair")]
    image = truth.info.modality == "image" and pairs.found.ndim == 4 and min(pairs.found.shape[-2:]) > 2
    if not image or not len(pairs.found):
        return rows
    ratio = measured(
        "psnr",
        lambda found, true: psnr(found, true, bounds),
        PSNR_CAP,
        "dB",
        False,
        f"Peak signal-to-noise ratio of each matched pair, at most {PSNR_CAP:.0f} dB",
    )
    return [
        *rows,
        ratio,
        *spread(ratio),
        measured(
            "ssim",
            lambda found, true: ssim(found, true, bounds),
            1.0,
            "similarity",
            False,
            "Structural similarity of each matched pair",
        ),
    ]


def spread(ratio: Measurement) -> list[Measurement]:
    """The best, the median and the worst pair of a seed: a mean hides that few of many are copied."""
    ends: list[tuple[str, float, str]] = [
        ("psnr_best", 1.0, "Peak signal-to-noise ratio of the best pair of a training"),
        ("psnr_median", 0.5, "Peak signal-to-noise ratio of the median pair of a training"),
        ("psnr_worst", 0.0, "Peak signal-to-noise ratio of the worst pair of a training"),
    ]
    return [
        Measurement(
            name=name,
            statistic="mean",
            units=ratio.units.quantile(part).reshape(1),
            floor_units=None if ratio.floor_units is None else ratio.floor_units.quantile(part).reshape(1),
            ceiling=ratio.ceiling,
            unit=ratio.unit,
            description=text,
        )
        for name, part, text in ends
    ]
