"""SignGuard: keep updates of ordinary length whose signs look like those of the largest group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.stage import Guarantee, RoundContext, Setting
from fedsec.round_geometry import RoundGeometry
from fedsec.threat import Paper

from .rule import RobustRule, Verdict

QUANTILE = 0.5
"""Mean shift's bandwidth is the mean distance to this share of the other rows."""


@dataclass(frozen=True)
class Guarded:
    """What the two filters say.

    Attributes:
        kept: ``(n,)`` bool.
        limit: the median norm, to which longer rows are clipped.
        suspicion: ``(n,)``, 1 at the border of either filter and more outside.
    """

    kept: Tensor
    limit: float
    suspicion: Tensor


def sign_statistics(U: Tensor, coordinates: Tensor | None = None) -> Tensor:
    """Shares of positive, zero and negative values in each row, ``(n, d)`` to ``(n, 3)`` fp64.

    Args:
        U: ``(n, d)``.
        coordinates: those that count; ``None`` counts all.
    """
    size = U.shape[1] if coordinates is None else len(coordinates)
    found = torch.zeros(U.shape[0], 3, dtype=torch.float64, device=U.device)
    for part in _parts(U, coordinates):
        found[:, 0] += (part > 0).sum(dim=1)
        found[:, 2] += (part < 0).sum(dim=1)
    found[:, 1] = size - found[:, 0] - found[:, 2]
    return found / size


def _parts(U: Tensor, coordinates: Tensor | None) -> Iterator[Tensor]:
    for span in geometry.spans(U.shape[1] if coordinates is None else len(coordinates)):
        yield U[:, span] if coordinates is None else U[:, coordinates[span]]


def largest_group(features: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cluster that mean shift finds; rows far from every cluster are in none, as in the authors' code.

    Args:
        features: ``(n, k)``.

    Returns:
        ``(n,)`` bool, and the distance of each row to the cluster's centre in bandwidths, ``(n,)`` fp64.
    """
    from sklearn.cluster import MeanShift, estimate_bandwidth

    points = features.cpu().numpy()
    bandwidth = float(estimate_bandwidth(points, quantile=QUANTILE)) if len(points) > 1 else 0.0
    # more than half of the rows are one point: then that point is the group, rounding aside
    bandwidth = max(bandwidth, 1e-9)
    found = MeanShift(bandwidth=bandwidth, cluster_all=False).fit(points)
    labels, counts = np.unique(found.labels_[found.labels_ >= 0], return_counts=True)
    label = int(labels[counts.argmax()])
    away = np.linalg.norm(points - found.cluster_centers_[label], axis=1) / bandwidth
    device = features.device
    return torch.as_tensor(found.labels_ == label, device=device), torch.as_tensor(away, device=device)


def guarded(
    round_: RoundGeometry, *, shortest: float = 0.1, longest: float = 3.0, coordinates: Tensor | None = None
) -> Guarded:
    """SignGuard's two filters (Xu et al. 2022, algorithm 2): by norm and by sign statistics, joined.

    Args:
        round_: the rows.
        shortest: smallest norm allowed, in median norms.
        longest: largest norm allowed, in median norms.
        coordinates: of which the signs count; ``None``: all.
    """
    norms = round_.norms
    limit = float(norms.quantile(0.5))
    shares = sign_statistics(round_.rows, coordinates)
    # each share in units of the largest of the round, as the authors' code has it
    group, away = largest_group(shares / shares.amax(dim=0).clamp_min(1e-8))
    lengths = norms / limit if limit > 0.0 else torch.where(norms > 0, torch.inf, 1.0)
    ordinary = (lengths >= shortest) & (lengths <= longest)
    excess = torch.maximum(lengths / longest, shortest / lengths.clamp_min(torch.finfo(lengths.dtype).tiny))
    return Guarded(kept=group & ordinary, limit=limit, suspicion=torch.maximum(excess.clamp_max(1e6), away))


def signguard(U: Tensor, *, shortest: float = 0.1, longest: float = 3.0, coordinates: Tensor | None = None) -> Tensor:
    """SignGuard (Xu et al. 2022, algorithm 2), ``(n, d)`` to ``(d,)``.

    The mean of the rows that pass `guarded`, each clipped to the median norm; zero if none passes.

    Raises:
        ValueError: the matrix is not finite.
    """
    round_ = RoundGeometry(U)
    return round_.combine(_share(round_, guarded(round_, shortest=shortest, longest=longest, coordinates=coordinates)))


def _share(round_: RoundGeometry, verdict: Guarded) -> Tensor:
    norms = round_.norms
    tiny = torch.finfo(norms.dtype).tiny
    clipped = torch.where(norms > verdict.limit, verdict.limit / norms.clamp_min(tiny), 1.0)
    return clipped * verdict.kept / verdict.kept.sum().clamp_min(1)


@dataclass(frozen=True, kw_only=True)
class SignGuard(RobustRule):
    """SignGuard: a filter of norms, a clustering of sign statistics, clipping to the median norm.

    The paper's plain version; its variants that add a similarity to the features are not offered. Signs are counted on
    a random share of the coordinates, clusters are found by mean shift. A round of which nothing passes is skipped.
    """

    shortest: Annotated[float, Field(ge=0.0, lt=1.0, description="Smallest norm kept, in median norms")] = 0.1
    longest: Annotated[float, Field(gt=1.0, description="Largest norm kept, in median norms")] = 3.0
    share: Annotated[float, Field(gt=0.0, le=1.0, description="Share of the coordinates whose signs are counted")] = 0.1

    name: ClassVar[str] = "signguard"
    summary: ClassVar[str] = "Keeps updates of ordinary norm whose share of positive signs is that of the largest group"
    paper: ClassVar[Paper | None] = Paper(
        title="Byzantine-robust Federated Learning through Collaborative Malicious Gradient Filtering",
        authors="Xu, Huang, Song, Lan",
        venue="ICDCS 2022",
        where="algorithm 2",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the mean from updates that are long, tiny, or have other shares of positive and negative values",
        against="fewer than half of the updates of a round",
        assuming="honest updates have like sign statistics; attacks that keep the signs of honest updates, or the "
        "shares of them, pass",
    )
    cost: ClassVar[str] = "n d per round; honest updates with unusual signs"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """There is no largest group of two."""
        if setting.cohort >= 3:
            return ()
        return ((f"signguard looks for a group, and the cohort is {setting.cohort:g}", "use a cohort of 3 or more"),)

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict | None:
        """The clipped mean of those that pass; reports the clipping norm."""
        coordinates = None
        if self.share < 1.0:
            count = max(1, int(self.share * round_.d))
            order = torch.randperm(round_.d, generator=context.generator("coordinates"))[:count]
            coordinates = order.sort().values.to(round_.device)
        found = guarded(round_, shortest=self.shortest, longest=self.longest, coordinates=coordinates)
        context.report["clipping norm"] = found.limit
        if not bool(found.kept.any()):
            return None
        value = round_.combine(_share(round_, found))
        return Verdict(value=value, suspicion=found.suspicion, used=found.kept)

    def breakdown(self, setting: Setting) -> float | None:
        """The paper's theorem bounds convergence given how many malicious updates pass, which no share tells."""
        return None
