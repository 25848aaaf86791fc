"""Confidence intervals of proportions and of the area under the ROC curve, and the step ROC itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def wilson(k: float, n: float, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), for display; its coverage is right on average only.

    Args:
        k: successes.
        n: trials.
        confidence: nominal coverage.

    Raises:
        ValueError: ``n`` is not positive or ``k`` is not in ``[0, n]``.
    """
    _check_counts(k, n)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    p, scale = k / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if k == 0 else max(0.0, centre - half)), (1.0 if k == n else min(1.0, centre + half))


def clopper_pearson(k: float, n: float, *, confidence: float = 0.95) -> Interval:
    """The exact interval of a proportion (Clopper and Pearson 1934): covers at least nominally for every truth.

    Args:
        k: successes; need not be whole, so that an effective sample size can be used (Korn and Graubard 1998).
        n: trials.
        confidence: nominal coverage.

    Raises:
        ValueError: ``n`` is not positive or ``k`` is not in ``[0, n]``.
    """
    _check_counts(k, n)
    tail = (1 - confidence) / 2
    low = 0.0 if k <= 0 else float(stats.beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k >= n else float(stats.beta.ppf(1 - tail, k + 1, n - k))
    return low, high


def _check_counts(k: float, n: float) -> None:
    if not n > 0 or not 0 <= k <= n:
        raise ValueError(f"a proportion needs 0 <= k <= n and n > 0, found k={k} and n={n}")


def scores_and_truths(scores: ArrayLike, truths: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores as float64 and truths as bool, both ``(n,)``.

    Raises:
        ValueError: shapes differ, a score is not a number, or one of the two classes is empty.
    """
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truths).astype(bool)
    if values.ndim != 1 or values.shape != positive.shape:
        raise ValueError(f"scores {values.shape} and truths {positive.shape} must be vectors of one length")
    if np.isnan(values).any():
        raise ValueError("a score is not a number; an attack that cannot score must say so with a finite score")
    if positive.all() or not positive.any():
        raise ValueError("a ROC curve needs both classes")
    return values, positive


def auc(scores: ArrayLike, truths: ArrayLike) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties counted half (Mann-Whitney).

    Args:
        scores: ``(n,)``, higher is more positive.
        truths: ``(n,)`` bool.

    Raises:
        ValueError: one class is empty, or a score is not a number.
    """
    values, positive = scores_and_truths(scores, truths)
    m = int(positive.sum())
    ranks = stats.rankdata(values)
    return float((ranks[positive].sum() - m * (m + 1) / 2) / (m * (len(values) - m)))


def auc_variance(scores: ArrayLike, truths: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """Variance of the area under the ROC curve without distributional assumption.

    DeLong, DeLong and Clarke-Pearson (1988) for independent units; Obuchowski (1997, eq. 4-5) for clusters.

    Args:
        scores: ``(n,)``.
        truths: ``(n,)`` bool.
        clusters: ``(n,)`` units of one cluster may depend on each other; ``None`` means none do.

    Raises:
        ValueError: one class is empty, or a score is not a number.
    """
    values, positive = scores_and_truths(scores, truths)
    group = np.arange(len(values)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    above, below = values[positive], values[~positive]
    ahead = (stats.rankdata(values)[positive] - stats.rankdata(above)) / len(below)
    behind = 1 - (stats.rankdata(values)[~positive] - stats.rankdata(below)) / len(above)
    theta = float(ahead.mean())
    size = int(group.max()) + 1
    up = np.bincount(group[positive], ahead - theta, size)
    down = np.bincount(group[~positive], behind - theta, size)
    up_groups, down_groups = len(np.unique(group[positive])), len(np.unique(group[~positive]))

    def bessel(count: int) -> float:
        return count / (count - 1) if count > 1 else math.nan

    variance = (
        bessel(up_groups) * float(up @ up) / len(above) ** 2
        + bessel(down_groups) * float(down @ down) / len(below) ** 2
        + (0.0 if clusters is None else 2 * bessel(size) * float(up @ down) / (len(above) * len(below)))
    )
    return max(variance, 0.0) if not math.isnan(variance) else math.nan


def auc_interval(
    scores: ArrayLike, truths: ArrayLike, *, clusters: ArrayLike | None = None, confidence: float = 0.95
) -> Interval:
    """Interval of the area under the ROC curve: the hull of DeLong's on the logit scale and Newcombe's.

    DeLong's variance vanishes at areas 0 and 1 and is too small close to them; Newcombe's score-like interval
    (2006, method 5) is right there and optimistic for scores far from the exponential model. The hull is
    conservative in both places. Clusters replace the sample sizes by the numbers of clusters.

    Raises:
        ValueError: one class is empty, or a score is not a number.
    """
    values, positive = scores_and_truths(scores, truths)
    group = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    sizes = len(np.unique(group[positive])), len(np.unique(group[~positive]))
    variance = auc_variance(values, positive, clusters)
    freedom = None if clusters is None else max(1, len(np.unique(group)) - 1)
    return auc_hull(auc(values, positive), variance, sizes, freedom=freedom, confidence=confidence)


def auc_hull(
    area: float, variance: float, sizes: tuple[float, float], *, freedom: int | None = None, confidence: float = 0.95
) -> Interval:
    """The interval of `auc_interval` from an area, its variance and the effective numbers of units per class.

    Args:
        area: the estimate.
        variance: of the estimate; ``nan`` if it cannot be estimated (then only Newcombe's interval is used).
        sizes: effective numbers of positives and negatives.
        freedom: degrees of freedom of the variance; ``None`` for many.
        confidence: nominal coverage.
    """
    low, high = _newcombe(area, sizes, confidence)
    if 0 < area < 1 and variance > 0:
        tail = 0.5 + confidence / 2
        z = float(stats.norm.ppf(tail) if freedom is None else stats.t.ppf(tail, freedom))
        half = z * math.sqrt(variance) / (area * (1 - area))
        logit = math.log(area / (1 - area))
        low, high = min(low, _expit(logit - half)), max(high, _expit(logit + half))
    return low, high


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _newcombe(area: float, sizes: tuple[float, float], confidence: float) -> Interval:
    """Areas whose Hanley-McNeil standard error puts the estimate just inside (Newcombe 2006, method 5)."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    m, n = sizes
    star = max((m + n) / 2 - 1, 0.0)

    def excess(theta: float, sign: float) -> float:
        spread = 1 + star * (1 - theta) / (2 - theta) + star * theta / (1 + theta)
        return theta - area - sign * z * math.sqrt(theta * (1 - theta) * spread / (m * n))

    # an estimate of exactly 0 or 1 is a root of its own equation; the wanted one lies inside
    tiny, inner, outer = 1e-12, min(area, 1 - 1e-9), max(area, 1e-9)
    low = 0.0 if excess(tiny, -1) >= 0 else float(optimize.brentq(excess, tiny, inner, args=(-1,)))
    high = 1.0 if excess(1 - tiny, 1) <= 0 else float(optimize.brentq(excess, outer, 1 - tiny, args=(1,)))
    return low, high


def steps(scores: ArrayLike, truths: ArrayLike) -> tuple[Floats, Floats]:
    """The step ROC: false and true positive rates of every threshold, from (0, 0) to (1, 1); ties move together."""
    values, positive = scores_and_truths(scores, truths)
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    tp = np.cumsum(positive[order])[last]
    fp = last + 1 - tp
    m = int(positive.sum())
    return np.append(0.0, fp / (len(values) - m)), np.append(0.0, tp / m)


def roc(scores: ArrayLike, truths: ArrayLike, *, points: int = 200) -> tuple[Floats, Floats]:
    """The ROC curve for a plot: false and true positive rates at no more than ``points`` thresholds.

    Half of the kept points are spaced evenly along the curve and half evenly in the logarithm of the false
    positive rate, so that a log-log plot is not empty on its left. Every kept point is a true threshold.
    """
    fpr, tpr = steps(scores, truths)
    if len(fpr) > points:
        half = (points - 2) // 2
        even = np.linspace(0, len(fpr) - 1, half).round().astype(np.int64)
        smallest = fpr[fpr > 0][0]
        # the last threshold of each rate is the corner that counts
        corners = np.searchsorted(fpr, np.geomspace(smallest, 1.0, half), side="right") - 1
        keep = np.unique(np.concatenate([[0, len(fpr) - 1], even, corners]))
        fpr, tpr = fpr[keep], tpr[keep]
    return fpr, tpr


def tpr_at_fpr(
    scores: ArrayLike, truths: ArrayLike, fpr: float, *, confidence: float = 0.95
) -> tuple[float, Interval, float]:
    """True positive rate at the last threshold whose false positive rate is at most ``fpr`` (no interpolation).

    Args:
        scores: ``(n,)``, higher is more positive.
        truths: ``(n,)`` bool.
        fpr: the false positive rate that is allowed, in [0, 1].
        confidence: nominal coverage.

    Returns:
        The rate; its exact interval given the threshold; and the smallest positive false positive rate that the
        negatives resolve (one of them). If that is above ``fpr``, the threshold allows no false positive at all.

    Raises:
        ValueError: one class is empty, or a score is not a number.
    """
    false, true = steps(scores, truths)
    positives = int(np.asarray(truths).astype(bool).sum())
    rate = float(true[np.searchsorted(false, fpr * (1 + 1e-12), side="right") - 1])
    return (
        rate,
        clopper_pearson(round(rate * positives), positives, confidence=confidence),
        1 / (len(np.asarray(truths)) - positives),
    )


def as_array(values: Any) -> NDArray[Any]:
    """A numpy array of a tensor, an array or a sequence."""
    detached = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(detached)
