"""The bootstrap as random weights: one replicate is a row of counts, and a statistic is a function of counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fedsec.statistics.intervals import Floats, Interval, scores_and_truths

Statistic = Callable[[Floats], Floats]
"""``(replicates, n) counts -> (replicates,)``; ``nan`` where a replicate does not define it."""

REPLICATES = 1000
_CHUNK = 2_000_000
"""Elements of a block of counts, to bound memory (16 MB)."""


def mean_of(units: ArrayLike) -> Statistic:
    """The weighted mean."""
    values = np.asarray(units, dtype=np.float64)
    return lambda counts: np.asarray(counts @ values / counts.sum(1), dtype=np.float64)


def resample_mean(units: Floats, replicates: int, *, generator: np.random.Generator) -> Floats:
    """Bootstrap replicates of the mean of units that take few values: one multinomial draw each, equal in law."""
    values, counts = np.unique(units, return_counts=True)
    drawn = generator.multinomial(len(units), counts / len(units), size=replicates)
    return np.asarray(drawn @ values / len(units), dtype=np.float64)


def auc_of(scores: ArrayLike, truths: ArrayLike) -> Statistic:
    """The area under the ROC curve, ties counted half."""
    climb = _climb(scores, truths)

    def statistic(counts: Floats) -> Floats:
        true, false = climb(counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            lower = np.cumsum(false[:, ::-1], 1)[:, ::-1] - false / 2
            return np.asarray((true * lower).sum(1) / (true.sum(1) * false.sum(1)), dtype=np.float64)

    return statistic


def tpr_of(scores: ArrayLike, truths: ArrayLike, fpr: float) -> Statistic:
    """The true positive rate at the last threshold whose false positive rate is at most ``fpr``."""
    climb = _climb(scores, truths)

    def statistic(counts: Floats) -> Floats:
        true, false = climb(counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            allowed = np.cumsum(false, 1) <= fpr * (1 + 1e-12) * false.sum(1, keepdims=True)
            return np.asarray((true * allowed).sum(1) / true.sum(1), dtype=np.float64)

    return statistic


def _climb(scores: ArrayLike, truths: ArrayLike) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Counts of positives and of negatives at each distinct score, highest first."""
    values, positive = scores_and_truths(scores, truths)
    order = np.argsort(-values, kind="stable")
    first = np.append(0, np.flatnonzero(np.diff(values[order])) + 1)

    def climb(counts: Floats) -> tuple[Floats, Floats]:
        ranked = counts[:, order]
        sign = positive[order]
        return np.add.reduceat(ranked * sign, first, 1), np.add.reduceat(ranked * ~sign, first, 1)

    return climb


def resample(
    statistic: Statistic,
    n: int,
    replicates: int,
    *,
    generator: np.random.Generator,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> Floats:
    """Bootstrap replicates of a statistic, ``(replicates,)``.

    Args:
        statistic: a function of counts.
        n: number of units.
        replicates: how many.
        generator: the only source of randomness.
        clusters: ``(n,)`` whole clusters are drawn instead of units.
        strata: ``(n,)`` bool, both parts keep their size (positives and negatives of a ROC); without clusters only.
    """
    parts: list[NDArray[np.int64]]
    if clusters is not None:
        names, member = np.unique(np.asarray(clusters), return_inverse=True)
        parts = [np.arange(len(names))]
    else:
        member = None
        side = np.zeros(n, dtype=bool) if strata is None else np.asarray(strata).astype(bool)
        parts = [part for part in (np.flatnonzero(side), np.flatnonzero(~side)) if len(part)]
    total = sum(len(part) for part in parts)
    out = np.empty(replicates)
    block = max(1, _CHUNK // max(n, total))
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        counts = np.zeros((rows, total))
        for part in parts:
            picked = part[generator.integers(len(part), size=(rows, len(part)))]
            counts += np.bincount((picked + np.arange(rows)[:, None] * total).ravel(), minlength=rows * total).reshape(
                rows, total
            )
        out[start : start + rows] = statistic(counts if member is None else counts[:, member])
    return out


def percentile(replicates: Floats, *, confidence: float = 0.95, independent: int | None = None) -> Interval:
    """The percentile interval of bootstrap replicates; undefined replicates are left out.

    Args:
        replicates: ``(b,)``.
        confidence: nominal coverage.
        independent: number of independent units, to widen the percentiles for small samples (Hesterberg 2015,
            section 5: the bootstrap has no Bessel correction and no t quantile); ``None`` leaves them.

    Raises:
        ValueError: no replicate defines the statistic.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        raise ValueError("no bootstrap replicate defines the statistic")
    tail = (1 - confidence) / 2
    if independent is not None and independent > 1:
        wide = math.sqrt(independent / (independent - 1)) * float(stats.t.ppf(tail, independent - 1))
        tail = float(stats.norm.cdf(wide))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_mean(
    units: ArrayLike,
    *,
    generator: np.random.Generator,
    clusters: ArrayLike | None = None,
    confidence: float = 0.95,
    replicates: int = REPLICATES,
) -> Interval:
    """Expanded percentile interval of a mean whose units may come in clusters.

    Args:
        units: ``(n,)`` observations.
        generator: the only source of randomness.
        clusters: ``(n,)`` units of one cluster are drawn together; ``None`` means all are independent.
        confidence: nominal coverage.
        replicates: bootstrap replicates.
    """
    values = np.asarray(units, dtype=np.float64)
    drawn = resample(mean_of(values), len(values), replicates, generator=generator, clusters=clusters)
    independent = len(values) if clusters is None else len(np.unique(np.asarray(clusters)))
    return percentile(drawn, confidence=confidence, independent=independent)
