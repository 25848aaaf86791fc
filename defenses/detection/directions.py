"""Two groups of update directions: which updates point together, and how far apart the groups are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["average", "complete", "single", "two-means"]


@dataclass(frozen=True, kw_only=True)
class Bipartition:
    """The updates of a round in two groups.

    Attributes:
        second: ``(n,)`` bool, who is in the second group; neither group is empty.
        separation: mean silhouette of the two groups on cosine distances, in [-1, 1]; 0 for groups that are not apart.
        tightness: mean cosine between two members of the first and of the second group; 1 for a group of one.
    """

    second: Tensor
    separation: float
    tightness: tuple[float, float]


def bipartition(cosines: Tensor, *, method: Method, seed: int = 0) -> Bipartition:
    """Split updates into two groups by their directions (scikit-learn).

    Args:
        cosines: ``(n, n)`` of all pairs, ``n >= 3``.
        method: ``single``, ``complete`` or ``average`` linkage on cosine distances ``1 - cos``; ``single`` solves the
            criterion of Sattler et al. 2020 exactly (the largest cosine between the groups is as small as possible),
            which a lone outlier satisfies too. ``two-means`` minimises the squared distances of unit vectors to
            the means of their groups (10 starts).
        seed: of the starts.

    Raises:
        ValueError: fewer than 3 updates.
    """
    n = len(cosines)
    if n < 3:
        raise ValueError(f"two groups of directions need n >= 3 updates, got n = {n}")
    from sklearn.cluster import AgglomerativeClustering, KMeans
    from sklearn.metrics import silhouette_samples

    distances = (1.0 - cosines.double().cpu()).clamp_min(0.0).fill_diagonal_(0.0)
    if float(distances.max()) <= 1e-9:  # identical directions are one group; rounding must not split them
        second = torch.zeros(n, dtype=torch.bool)
        second[-1] = True
        return Bipartition(second=second, separation=0.0, tightness=(1.0, 1.0))
    if method == "two-means":
        labels = KMeans(n_clusters=2, n_init=10, random_state=seed).fit(_places(cosines).numpy()).labels_
    else:
        tree = AgglomerativeClustering(n_clusters=2, metric="precomputed", linkage=method)
        labels = tree.fit(distances.numpy()).labels_
    second = torch.from_numpy(labels != labels[0])
    if not bool(second.any()):
        raise ValueError("clustering found one group")
    separation = float(silhouette_samples(distances.numpy(), second.numpy(), metric="precomputed").mean())
    inside = (_within(cosines.cpu(), ~second), _within(cosines.cpu(), second))
    return Bipartition(second=second, separation=separation, tightness=inside)


def leaning(cosines: Tensor, group: Tensor) -> Tensor:
    """How much more each update points like a group than like the rest, ``(n,)`` fp64 in [-2, 2].

    The mean cosine to the members of the group less the mean cosine to the others; an update is not compared with
    itself, and one that is alone in its group has the cosine 1 to it.

    Args:
        cosines: ``(n, n)``.
        group: ``(n,)`` bool.
    """
    n = len(cosines)
    others = ~torch.eye(n, dtype=torch.bool)
    products = cosines.double().cpu()
    means = []
    for members in (group.cpu(), ~group.cpu()):
        compared = (others & members.unsqueeze(0)).double()
        count = compared.sum(dim=1)
        means.append(torch.where(count > 0, (products * compared).sum(dim=1) / count.clamp_min(1.0), 1.0))
    return means[0] - means[1]


def _places(cosines: Tensor) -> Tensor:
    """Points ``(n, n)`` fp64 whose inner products are the cosines: unit updates, rotated into ``n`` dimensions."""
    values, vectors = torch.linalg.eigh(cosines.double().cpu())
    places: Tensor = vectors * values.clamp_min(0.0).sqrt()
    return places


def _within(cosines: Tensor, members: Tensor) -> float:
    block = cosines.double()[members][:, members]
    count = len(block)
    return 1.0 if count < 2 else float((block.sum() - block.diagonal().sum()) / (count * (count - 1)))
