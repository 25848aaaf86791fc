"""One number with its uncertainty from one measurement per seed.

The value is the mean over seeds of each seed's own statistic (scores of two trainings are not comparable, so
areas under ROC curves are averaged and scores never mixed). Its interval is the outer hull of two:

(a) *within seeds*: what is exact or analytic for the statistic, with the seeds taken as they are: Clopper-Pearson
    for shares, DeLong/Newcombe for areas, a bootstrap stratified by seed for everything else. It is right when
    seeds hardly differ, and the only one that says something at 0 % and 100 %, where a bootstrap collapses.
(b) *over seeds*: with two seeds or more, a two-level bootstrap that draws seeds and then units (or clusters)
    inside them. It is right when trainings differ, and blind to everything that few seeds do not show.

Neither contains the other, so the hull is reported: it covers at least nominally where one of them does, and is
wider than it need be elsewhere. What it does not repair: units of different seeds are taken as independent draws,
although seeds may share test examples; two or three seeds show little of how much trainings differ (simulated: 90 %
coverage for three seeds whose rates have a standard deviation of 0.12); the mean of a few heavy-tailed units is
covered too seldom by any bootstrap. The floor's own uncertainty is not added to the advantage's interval; the
floor's value stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsec.judges.base import Measurement
from fedsec.statistics import bootstrap
from fedsec.statistics.intervals import (
    Floats,
    Interval,
    as_array,
    auc_hull,
    auc_variance,
    clopper_pearson,
)
from fedsec.statistics.lower_bounds import is_lower_bound, largest_bound


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """One metric of one cell over all its seeds.

    Attributes:
        name: of the metric.
        value: mean over seeds.
        low: lower end of the interval.
        high: upper end of the interval.
        n: units of all seeds together.
        floor: what the best adversary without the view reaches.
        ceiling: full success.
        advantage: ``(value - floor) / (ceiling - floor)`` clipped to [0, 1]; 0 if the ceiling is not above the floor.
        advantage_low: the same for ``low``.
        advantage_high: the same for ``high``.
        seeds: the statistic of each seed.
        unit: of the value.
        description: one sentence for the report, and a second where the number has a caveat.
        headline: whether severity is judged on it.
        resolution: the smallest false positive rate that one seed's negatives resolve, for ``tpr@``; else ``None``.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    floor: float
    ceiling: float
    advantage: float
    advantage_low: float
    advantage_high: float
    seeds: tuple[float, ...]
    unit: str
    description: str
    headline: bool
    resolution: float | None


_FEW = 16
"""Units with at most so many distinct values are resampled by value."""


@dataclass(frozen=True)
class _Sample:
    """The units of one seed as arrays, and the statistic on them."""

    units: Floats
    truths: NDArray[np.bool_] | None
    clusters: NDArray[np.int64] | None
    statistic: bootstrap.Statistic

    @property
    def value(self) -> float:
        return float(self.statistic(np.ones((1, len(self.units))))[0])

    def replicates(self, count: int, generator: np.random.Generator) -> Floats:
        if self.truths is None and self.clusters is None and len(np.unique(self.units)) <= _FEW:
            return bootstrap.resample_mean(self.units, count, generator=generator)
        return bootstrap.resample(
            self.statistic, len(self.units), count, generator=generator, clusters=self.clusters, strata=self.truths
        )

    @property
    def independent(self) -> int:
        return len(self.units) if self.clusters is None else len(np.unique(self.clusters))


def pool(
    measurements: Sequence[Measurement | Mapping[str, Any]],
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> Pooled:
    """Pool one measurement per seed.

    Args:
        measurements: of one metric, one per seed; a mapping of `Measurement`'s fields (tensors, arrays or lists,
            as a store gives them back) is one too.
        generator: the only source of randomness.
        confidence: nominal coverage of the interval.

    Raises:
        ValueError: there is none, they are not of one metric, or one of them has no units, units that are not
            numbers, or only one of two classes.
    """
    items = [item if isinstance(item, Measurement) else _measurement(item) for item in measurements]
    if not items:
        raise ValueError("nothing to pool")
    first = items[0]
    if {(item.name, item.statistic) for item in items} != {(first.name, first.statistic)}:
        raise ValueError(f"cannot pool different metrics: {sorted({item.name for item in items})}")
    if is_lower_bound(first.statistic):
        return _pooled_bound(items, confidence)
    samples = [_sample(item, item.units, item.truths, item.clusters) for item in items]
    values = tuple(sample.value for sample in samples)
    value = float(np.mean(values))
    low, high = _hull(first.statistic, samples, value, generator, confidence)
    floor = _floor(items)
    ceiling = float(np.mean([item.ceiling for item in items]))
    caveats = [first.description] if first.description else []
    # A metric beside the headline may count downwards, as an accuracy does.
    if not ceiling > floor and (first.headline or ceiling == floor):
        caveats.append(f"No advantage can be measured: the floor {floor:.4g} is not below the ceiling {ceiling:.4g}.")
    if sum(sample.independent for sample in samples) == 1:
        caveats.append("It rests on one independent observation.")

    def advantage(x: float) -> float:
        return float(np.clip((x - floor) / (ceiling - floor), 0, 1)) if ceiling > floor else 0.0

    return Pooled(
        name=first.name,
        value=value,
        low=low,
        high=high,
        n=sum(len(sample.units) for sample in samples),
        floor=floor,
        ceiling=ceiling,
        advantage=advantage(value),
        advantage_low=advantage(low),
        advantage_high=advantage(high),
        seeds=values,
        unit=first.unit,
        description=" ".join(caveats),
        headline=first.headline,
        resolution=_resolution(first.statistic, samples),
    )


def _pooled_bound(items: Sequence[Measurement], confidence: float) -> Pooled:
    """A one-sided bound has no interval around it: both ends are the bound; its ceiling is that of the test."""
    first = items[0]
    audits = [(as_array(item.units), as_array(item.truths)) for item in items if item.truths is not None]
    if len(audits) < len(items):
        raise ValueError(f"the statistic {first.statistic} needs truths")
    found = largest_bound(first.statistic, audits, confidence=confidence)
    floor = _floor([replace(item, floor_units=None) for item in items])
    advantage = float(np.clip((found.value - floor) / (found.ceiling - floor), 0, 1)) if found.ceiling > floor else 0.0
    return Pooled(
        name=first.name,
        value=found.value,
        low=found.value,
        high=found.value,
        n=sum(len(scores) for scores, _ in audits),
        floor=floor,
        ceiling=found.ceiling,
        advantage=advantage,
        advantage_low=advantage,
        advantage_high=advantage,
        seeds=found.seeds,
        unit=first.unit,
        description=first.description,
        headline=first.headline,
        resolution=None,
    )


def _measurement(stored: Mapping[str, Any]) -> Measurement:
    known = {field.name for field in fields(Measurement)}
    arrays = {"units", "truths", "clusters", "floor_units"}
    values: dict[str, Any] = {key: value for key, value in stored.items() if key in known}
    values |= {key: torch.as_tensor(values[key]) for key in arrays & values.keys() if values[key] is not None}
    return Measurement(**values)


def _statistic(name: str, units: Floats, truths: NDArray[np.bool_] | None) -> bootstrap.Statistic:
    if name == "mean":
        return bootstrap.mean_of(units)
    if truths is None:
        raise ValueError(f"the statistic {name} needs truths")
    if name == "auc":
        return bootstrap.auc_of(units, truths)
    head, _, rate = name.partition("@")
    if head != "tpr":
        raise ValueError(f"the statistic is mean, auc or tpr@<rate>, found {name}")
    return bootstrap.tpr_of(units, truths, float(rate))


def _sample(item: Measurement, units: Any, truths: Any, clusters: Any) -> _Sample:
    values = as_array(units).astype(np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{item.name} needs a vector of at least one unit, found shape {values.shape}")
    if item.statistic == "mean" and not np.isfinite(values).all():
        raise ValueError(f"{item.name} has units that are not finite numbers")
    truth = None if truths is None or item.statistic == "mean" else as_array(truths).astype(bool)
    group = None if clusters is None else as_array(clusters).astype(np.int64)
    return _Sample(values, truth, group, _statistic(item.statistic, values, truth))


def _floor(items: Sequence[Measurement]) -> float:
    """Mean over seeds of what is measured, but at least what theory fixes; chance (0 for a mean) without either.

    The mean is taken before the comparison: the mean of maxima would lie above both.
    """
    given = [item.floor for item in items if item.floor is not None]
    theory = float(np.mean(given)) if given else None
    measured = [
        _sample(item, item.floor_units, item.truths, None).value for item in items if item.floor_units is not None
    ]
    if measured:
        return max(float(np.mean(measured)), -np.inf if theory is None else theory)
    if theory is not None:
        return theory
    statistic = items[0].statistic
    return 0.5 if statistic == "auc" else 0.0 if is_lower_bound(statistic) else _rate(statistic)


def _rate(statistic: str) -> float:
    return float(statistic.partition("@")[2] or 0)


def _resolution(statistic: str, samples: Sequence[_Sample]) -> float | None:
    if not statistic.startswith("tpr@"):
        return None
    return 1 / min(int((~sample.truths).sum()) for sample in samples if sample.truths is not None)


def _effective(counts: Sequence[float]) -> float:
    """Units of one sample whose mean varies as the mean of the seeds' means does (their sum if all are equal)."""
    return float(len(counts) ** 2 / sum(1 / count for count in counts))


def _hull(
    statistic: str, samples: Sequence[_Sample], value: float, generator: np.random.Generator, confidence: float
) -> Interval:
    bounds: list[Interval] = [(value, value)]
    binary = statistic == "mean" and all(np.isin(sample.units, (0.0, 1.0)).all() for sample in samples)
    if statistic == "auc":
        bounds.append(_auc(samples, value, confidence))
    elif binary:
        bounds.append(_share(value, _effective([_share_size(sample) for sample in samples]), confidence))
    elif statistic.startswith("tpr@"):
        positives = [float(sample.truths.sum()) for sample in samples if sample.truths is not None]
        bounds.append(_share(value, _effective(positives), confidence))
    if statistic != "auc" and not (binary and all(sample.clusters is None for sample in samples)):
        within = np.mean([sample.replicates(bootstrap.REPLICATES, generator) for sample in samples], axis=0)
        independent = sum(sample.independent for sample in samples)
        bounds.append(bootstrap.percentile(within, confidence=confidence, independent=independent))
    if len(samples) > 1:
        bounds.append(bootstrap.percentile(_two_levels(samples, generator), confidence=confidence))
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _share(value: float, n: float, confidence: float) -> Interval:
    k = value * n
    whole = round(k)
    return clopper_pearson(min(whole if abs(k - whole) < 1e-6 else k, n), n, confidence=confidence)


def _share_size(sample: _Sample) -> float:
    """Effective number of units of a share: units, or between clusters and units (Korn and Graubard 1998).

    Where every unit agrees the data say nothing about how alike a cluster is, and each counts as one unit.
    """
    n = len(sample.units)
    if sample.clusters is None:
        return float(n)
    member = np.unique(sample.clusters, return_inverse=True)[1]
    sizes = np.bincount(member)
    fewest = float(n * n / (sizes @ sizes))
    p = float(sample.units.mean())
    if p in (0.0, 1.0) or len(sizes) == 1:
        return fewest
    off = np.bincount(member, sample.units - p)
    variance = len(sizes) / (len(sizes) - 1) * float(off @ off) / n**2
    return float(np.clip(p * (1 - p) / variance, fewest, n)) if variance > 0 else float(n)


def _auc(samples: Sequence[_Sample], value: float, confidence: float) -> Interval:
    variances, up, down, freedom = [], [], [], 0
    for sample in samples:
        assert sample.truths is not None  # noqa: S101 - the statistic is built from them
        group = np.arange(len(sample.units)) if sample.clusters is None else sample.clusters
        variances.append(auc_variance(sample.units, sample.truths, sample.clusters))
        up.append(float(len(np.unique(group[sample.truths]))))
        down.append(float(len(np.unique(group[~sample.truths]))))
        freedom += len(np.unique(group)) - 1
    clustered = any(sample.clusters is not None for sample in samples)
    return auc_hull(
        value,
        float(np.sum(variances)) / len(samples) ** 2,
        (_effective(up), _effective(down)),
        freedom=max(1, freedom) if clustered else None,
        confidence=confidence,
    )


def _two_levels(samples: Sequence[_Sample], generator: np.random.Generator) -> Floats:
    """Means over seeds drawn with replacement, each with units (or clusters) drawn with replacement inside."""
    drawn = generator.integers(len(samples), size=(bootstrap.REPLICATES, len(samples)))
    values = np.empty(drawn.shape)
    for index, sample in enumerate(samples):
        mask = drawn == index
        values[mask] = sample.replicates(int(mask.sum()), generator)
    return np.asarray(values.mean(1), dtype=np.float64)
