"""What an update looks like from the outside: a few numbers per update, and outlier scores from them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedsec import geometry

Method = Literal["mad", "isolation-forest", "pca"]

FEATURES = (
    "log norm",
    "cosine to the median",
    "positive signs",
    "distance to the median",
    "median distance to others",
    "first component",
    "second component",
    "rest",
)
COMPONENTS = 2
_TINY = 1e-12


def update_features(U: Tensor) -> Tensor:
    """Describe each update: ``(n, d)`` to ``(n, 8)`` fp64, columns as in `FEATURES`.

    The natural logarithm of the norm; the cosine to the coordinate-wise median; the share of positive among
    non-zero coordinates; the distance to that median and the median distance to the others, both over their median in
    the round; the sizes of the two leading principal components about the median, and the norm of what
    they leave (over the median distance). All are unchanged if the round is scaled, but for the log norm, which shifts.

    Raises:
        ValueError: the matrix is empty or not finite.
    """
    geometry.check_rows(U)
    centre = geometry.coordinate_median(U)
    norms = geometry.row_norms(U)
    length = float(geometry.row_norms(centre.unsqueeze(0)))
    cosine = geometry.dots(U, centre) / (norms * length).clamp_min(_TINY)
    products = geometry.gram(U, centre=centre)
    to_centre = products.diagonal().clamp_min(0.0).sqrt()
    unit = to_centre.quantile(0.5).clamp_min(_TINY)
    leading, rest = _components(products)
    return torch.column_stack(
        [
            norms.clamp_min(_TINY).log(),
            cosine.clamp(-1.0, 1.0),
            _positive(U),
            to_centre / unit,
            _typical_distance(products),
            leading / unit,
            rest / unit,
        ]
    )


def leading_component(U: Tensor) -> Tensor:
    """Size of each update's first principal component about the coordinate-wise median, ``(n,)`` fp64.

    The root of the score of the spectral filter of Shejwalkar & Houmansadr 2021 (DnC, algorithm 2), which centres on
    the mean and samples coordinates; attackers that agree on one direction span this component.
    """
    leading, _ = _components(geometry.centred_gram(U))
    return leading[:, 0]


def robust_z(values: Tensor) -> Tensor:
    """Deviation from the median in robust standard deviations, per column: ``(n, p)`` to ``(n, p)``, signed.

    Scale is 1.4826 times the median absolute deviation (MAD); where more than half of the values are equal, 1.2533
    times the mean absolute deviation (Iglewicz & Hoaglin 1993), and where all are, every deviation is 0. A scale
    below 1e-6 of the median's size counts as equal: that is rounding.
    """
    median = values.quantile(0.5, dim=0)
    deviation = values - median
    spread = 1.4826 * deviation.abs().quantile(0.5, dim=0)
    fallback = 1.2533 * deviation.abs().mean(dim=0)
    noise = 1e-6 * median.abs() + _TINY
    scale = torch.where(spread > noise, spread, fallback)
    return torch.where(scale > noise, deviation / scale.clamp_min(_TINY), 0.0)


def outlier_scores(U: Tensor, *, method: Method, seed: int = 0) -> Tensor:
    """How far each update is from the others, ``(n,)`` fp64; higher is stranger.

    Args:
        U: ``(n, d)`` updates.
        method: ``mad`` is the largest deviation over the features of `update_features` and ``pca`` that of
            `leading_component`, both in robust standard deviations (`robust_z`); ``isolation-forest`` is the forest's
            score in (0, 1) on those features (Liu, Ting & Zhou 2008, 100 trees), about 0.5 for inliers.
        seed: of the forest.

    Raises:
        ValueError: the matrix is empty or not finite.
    """
    geometry.check_rows(U)
    if method == "pca":
        return robust_z(leading_component(U).unsqueeze(1)).flatten()
    features = robust_z(update_features(U))
    if method == "mad":
        return features.abs().max(dim=1).values
    from sklearn.ensemble import IsolationForest

    rows = features.cpu().numpy()
    forest = IsolationForest(n_estimators=100, random_state=seed).fit(rows)
    return torch.as_tensor(-forest.score_samples(rows), dtype=torch.float64)


def select_outliers(scores: Tensor, *, threshold: float, most: int) -> Tensor:
    """Which updates score above the threshold, the ``most`` highest of them at the most: ``(n,)`` to ``(n,)`` bool."""
    flagged = torch.zeros(len(scores), dtype=torch.bool)
    highest = scores.cpu().argsort(descending=True, stable=True)[:most]
    flagged[highest] = scores.cpu()[highest] > threshold
    return flagged


def _components(products: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute leading components ``(n, 2)`` and the norm of the rest ``(n,)`` from a Gram matrix ``(n, n)``."""
    values, vectors = torch.linalg.eigh(products)
    # eigh sorts ascending; absolute values, because the sign of an eigenvector is arbitrary
    size = vectors.flip(1).abs() * values.flip(0).clamp_min(0.0).sqrt()
    leading = torch.nn.functional.pad(size[:, :COMPONENTS], (0, max(0, COMPONENTS - size.shape[1])))
    rest = (products.diagonal() - leading.square().sum(dim=1)).clamp_min(0.0).sqrt()
    return leading, rest


def _positive(U: Tensor) -> Tensor:
    positive = (U > 0).sum(dim=1).double()
    return positive / (positive + (U < 0).sum(dim=1)).clamp_min(1.0)


def _typical_distance(products: Tensor) -> Tensor:
    n = products.shape[0]
    if n < 2:
        return torch.ones(n, dtype=torch.float64, device=products.device)
    distances = geometry.squared_distances(products).sqrt()
    others = distances.fill_diagonal_(-1.0).sort(dim=1).values[:, 1:].quantile(0.5, dim=1)
    return others / others.quantile(0.5).clamp_min(_TINY)
