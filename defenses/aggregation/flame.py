"""FLAME: cluster the models by direction, clip to the median length, hide what is left in noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.stage import Guarantee, RoundContext, Setting
from fedsec.round_geometry import RoundGeometry
from fedsec.threat import Paper

from .rounds import relative
from .rule import RobustRule, Verdict

_ROUNDING = 1e-12
"""What a difference of two fp64 numbers is worth, in units of them."""


def model_cosine_distances(round_: RoundGeometry, model: Tensor) -> Tensor:
    """``1 - cos`` between all pairs of models ``model + row``, ``(n, n)`` fp64; zero on the diagonal.

    Models differ by little beside their length, so that ``1 - cos`` of their products would be all rounding. It
    follows without loss from distances and lengths: ``(|a - b|^2 - (|a| - |b|)^2) / (2 |a| |b|)``.
    """
    rows = round_.rows
    along = geometry.dots(rows, model)
    size = geometry.row_norms(model.unsqueeze(0))[0].square()
    excess = 2.0 * along + round_.norms.square()  # of the squared length over the model's
    lengths = (size + excess).clamp_min(0.0).sqrt()
    total = lengths.unsqueeze(0) + lengths.unsqueeze(1)
    tiny = torch.finfo(lengths.dtype).tiny
    apart = (excess.unsqueeze(0) - excess.unsqueeze(1)) / total.clamp_min(tiny)
    product = lengths.unsqueeze(0) * lengths.unsqueeze(1)
    squares = round_.squared_distances
    across = squares - apart.square()
    # rows that differ in length alone: what is left is rounding
    across = torch.where(across > _ROUNDING * squares, across, 0.0)
    distances = across / (2.0 * product).clamp_min(tiny)
    # a model of length 0 has no direction: it is at a right angle to all others
    return torch.where(product > 0, distances, 1.0).clamp(0.0, 2.0).fill_diagonal_(0.0)


def densest_majority(distances: Tensor) -> Tensor:
    """FLAME's dynamic clustering: which rows HDBSCAN puts into its one cluster of more than half of them.

    HDBSCAN with ``min_cluster_size = floor(n / 2) + 1``, ``min_samples = 1`` and ``allow_single_cluster``. No two
    clusters of that size exist, so it is the densest group of more than half of the rows.

    Args:
        distances: ``(n, n)``.

    Returns:
        ``(n,)`` bool, at least ``floor(n / 2) + 1`` of them true.
    """
    from sklearn.cluster import HDBSCAN

    n = distances.shape[0]
    if n <= 2 or not bool((distances > 0).any()):
        return torch.ones(n, dtype=torch.bool, device=distances.device)
    found = HDBSCAN(
        min_cluster_size=n // 2 + 1, min_samples=1, allow_single_cluster=True, metric="precomputed", copy=True
    ).fit_predict(distances.cpu().numpy())
    admitted = torch.as_tensor(found >= 0, device=distances.device)
    if bool(admitted.any()):
        return admitted
    raise ValueError("HDBSCAN found no cluster in distances that are finite")


def flame_coefficients(round_: RoundGeometry, admitted: Tensor) -> tuple[Tensor, float]:
    """Coefficients of FLAME without its noise.

    Admitted rows are clipped to the median norm of *all* rows and averaged (Nguyen et al. 2022, algorithm 1).

    Args:
        round_: the updates.
        admitted: ``(n,)`` bool, of `densest_majority`.

    Returns:
        ``(n,)`` fp64, and the median norm ``S``.
    """
    norms = round_.norms
    limit = float(norms.quantile(0.5))
    clipped = torch.where(norms > limit, limit / norms.clamp_min(torch.finfo(norms.dtype).tiny), 1.0)
    return clipped * admitted / admitted.sum(), limit


def flame(U: Tensor, *, model: Tensor, noise: float = 0.001, generator: torch.Generator | None = None) -> Tensor:
    """FLAME (Nguyen et al. 2022, algorithm 1), ``(n, d)`` to ``(d,)``.

    Args:
        U: ``(n, d)`` updates.
        model: ``(d,)`` global model: directions are compared on whole models, as in the paper.
        noise: ``lambda``; the standard deviation is this times the median norm of the updates.
        generator: of the noise, on the CPU; needed where ``noise > 0``.

    Raises:
        ValueError: the matrix is not finite, or there is noise and no generator.
    """
    round_ = RoundGeometry(U)
    share, limit = flame_coefficients(round_, densest_majority(model_cosine_distances(round_, model)))
    return noised(round_.combine(share), noise * limit, generator)


def noised(value: Tensor, deviation: float, generator: torch.Generator | None) -> Tensor:
    """A vector with Gaussian noise."""
    if not deviation > 0.0:
        return value
    if generator is None:
        raise ValueError("noise needs a generator")
    return value + deviation * torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)


@dataclass(frozen=True, kw_only=True)
class Flame(RobustRule):
    """FLAME: cluster, clip, add noise.

    The server adds the noise to the aggregate, to all coordinates alike. The densest majority is admitted whether or
    not anybody attacks, so that up to half of the honest updates are dropped in every round. Suspicion is the mean
    cosine distance to the models admitted, in median distances.
    """

    noise: Annotated[
        float,
        Field(
            ge=0.0,
            description="Deviation of the noise, in median norms of the updates; the paper uses 0.001 for images",
        ),
    ] = 0.001

    name: ClassVar[str] = "flame"
    summary: ClassVar[str] = "Keeps the densest majority of models by direction, clips to the median norm, adds noise"
    paper: ClassVar[Paper | None] = Paper(
        title="FLAME: Taming Backdoors in Federated Learning",
        authors="Nguyen, Rieger, Chen, Yalame, Möllering, Fereidooni, Marchal, Miettinen, Mirhoseini, Zeitouni et al.",
        venue="USENIX Security 2022",
        where="algorithm 1",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the model from backdoors: those far in direction are dropped, long ones clipped, faint ones drowned",
        against="fewer than half of the updates of a round",
        assuming="honest models are the densest majority by direction; the proof about noise asks for more of it than "
        "the paper's experiments use, and no bound on the share is proven for these",
    )
    cost: ClassVar[str] = "n^2 d per round, up to half of the honest updates, and noise in the model"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """A majority of two is everybody."""
        if setting.cohort >= 3:
            return ()
        return ((f"flame looks for a majority, and the cohort is {setting.cohort:g}", "use a cohort of 3 or more"),)

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The clipped mean of the majority, with noise; reports its deviation and the clipping norm."""
        if context.model is None:
            raise ValueError("flame compares whole models and was not told the global one")
        distances = model_cosine_distances(round_, context.model)
        admitted = densest_majority(distances)
        share, limit = flame_coefficients(round_, admitted)
        context.report["clipping norm"] = limit
        context.report["noise_std"] = self.noise * limit
        value = noised(round_.combine(share), self.noise * limit, context.generator("noise"))
        suspicion = relative(distances[:, admitted].mean(dim=1))
        return Verdict(value=value, suspicion=suspicion, used=admitted)

    def breakdown(self, setting: Setting) -> float | None:
        """None is proven for noise as small as it is used."""
        return None
