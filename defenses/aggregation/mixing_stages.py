"""Pre-aggregators as defenses: nearest-neighbour mixing, bucketing, adaptive clipping. Any rule may follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fedsec.protocol.stage import Cohort, Defense, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from . import rules
from .rounds import assumed, exclude, finite, identities, suspect, tolerated
from .rule import Assumed, Fraction


def _most(n: int) -> int:
    return (n - 1) // 2


def _too_small(name: str, setting: Setting, *, f: int) -> tuple[tuple[str, str], ...]:
    n = int(setting.cohort)
    if n >= 2 * f + 1:
        return ()
    found = f"{name} needs 2f + 1 = {2 * f + 1} updates per round for f = {f}, the cohort is {n}"
    return ((found, f"set f = {max(0, _most(n))} or enlarge the cohort"),)


@dataclass(frozen=True, kw_only=True)
class NearestNeighborMixing(Defense):
    """Nearest-neighbor mixing (NNM): each update becomes the mean of the ``n - f`` updates nearest to it.

    The rule that follows should assume the same ``f``. A row still stands for its client: a rule that drops it drops
    that client.
    """

    f: Assumed = None
    fraction: Fraction = 0.2

    name: ClassVar[str] = "nnm"
    family: ClassVar[str] = "pre-aggregation"
    summary: ClassVar[str] = "Replaces each update by the mean of its n - f nearest neighbours, before the rule"
    paper: ClassVar[Paper | None] = Paper(
        title="Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
        authors="Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan",
        venue="AISTATS 2023",
        where="algorithm 2",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the rule that follows from the spread that differing data give to honest updates",
        against="up to f arbitrary updates out of n >= 2f + 1 per round",
        assuming="a robust rule follows; the mean behind it is no rule",
    )
    cost: ClassVar[str] = "2 n^2 d per round"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses cohorts below ``2f + 1``."""
        f = assumed(int(setting.cohort), f=self.f, fraction=self.fraction)
        return _too_small(self.name, setting, f=f)

    def preaggregate(self, cohort: Cohort, context: RoundContext) -> Cohort:
        """The mixed rows; a cohort too small for ``f`` lowers it, and reports it."""
        cohort = finite(cohort, context)
        clients = cohort.matrix()[0]
        if not clients:
            return cohort
        wanted = assumed(identities(context, clients), f=self.f, fraction=self.fraction)
        f = tolerated(context, wanted, most=_most(len(clients)))
        return cohort.mixed(rules.nearest_neighbor_mixing_matrix(cohort.geometry, f=f))

    def row_function(self, n: int) -> Callable[[Tensor], Tensor]:
        """`nearest_neighbor_mixing`."""
        f = min(assumed(n, f=self.f, fraction=self.fraction), _most(n))
        return partial(rules.nearest_neighbor_mixing, f=f)


@dataclass(frozen=True, kw_only=True)
class Bucketing(Defense):
    """Bucketing: means of random buckets of ``s`` updates.

    One malicious update spoils its bucket, so the rule that follows has ``ceil(n / s)`` rows of which up to ``f`` are
    bad: ``f < n / (2 s)`` is needed, and a rule with a stricter bound lowers its ``f`` and says so. A rule that drops a
    bucket drops everybody in it.
    """

    s: Annotated[int, Field(ge=1, description="Updates per bucket; the paper uses 2")] = 2
    f: Assumed = None
    fraction: Fraction = 0.2

    name: ClassVar[str] = "bucketing"
    family: ClassVar[str] = "pre-aggregation"
    summary: ClassVar[str] = "Averages random buckets of updates before the rule, so that honest ones differ less"
    paper: ClassVar[Paper | None] = Paper(
        title="Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
        authors="Karimireddy, He, Jaggi",
        venue="ICLR 2022",
        where="algorithm 1",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the rule that follows from the spread that differing data give to honest updates",
        against="up to f < n / (2 s) arbitrary updates per round",
        assuming="a robust rule follows that compares no identities over rounds; f is counted in updates, not buckets",
    )
    cost: ClassVar[str] = "n d per round; the rule sees fewer updates and withstands a smaller share"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses buckets among which the malicious could be the majority."""
        n = int(setting.cohort)
        f = assumed(n, f=self.f, fraction=self.fraction)
        if 2 * self.s * f < n or f == 0:
            return ()
        found = f"bucketing needs f < n / (2 s) = {n / (2 * self.s):g} so that most buckets are clean, and f is {f}"
        return ((found, f"lower s or f: with s = {self.s} at most f = {max(0, -(-n // (2 * self.s)) - 1)}"),)

    def preaggregate(self, cohort: Cohort, context: RoundContext) -> Cohort:
        """The means of the buckets, drawn anew each round; each stands for everybody in it."""
        cohort = finite(cohort, context)
        clients = cohort.matrix()[0]
        if not clients:
            return cohort
        s = min(self.s, len(clients))
        matrix = rules.bucketing_matrix(cohort.geometry, s=s, generator=context.generator("buckets"))
        groups = [tuple(clients[column] for column in row.nonzero().flatten().tolist()) for row in matrix]
        context.report["buckets"] = float(len(groups))
        return cohort.mixed(matrix, groups=groups)


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping(Defense):
    """Adaptive robust clipping (ARC): the longest updates are shortened to the norm of the next one.

    ``floor(2 (f / n) (n - f))`` of them. Suspicion, which a rule that follows may replace, is the part cut off.
    """

    f: Assumed = None
    fraction: Fraction = 0.2

    name: ClassVar[str] = "arc"
    family: ClassVar[str] = "pre-aggregation"
    summary: ClassVar[str] = "Shortens the longest updates to the norm of the next one, before the rule"
    paper: ClassVar[Paper | None] = Paper(
        title="Adaptive Gradient Clipping for Robust Federated Learning",
        authors="Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan",
        venue="ICLR 2025",
        where="algorithm 2",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the rule that follows from updates that outweigh others by their length",
        against="up to f arbitrary updates out of n >= 2f + 1 per round",
        assuming="a robust rule follows; a direction that is wrong stays wrong",
    )
    cost: ClassVar[str] = "n d per round; the longest honest updates are shortened"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses cohorts below ``2f + 1``."""
        f = assumed(int(setting.cohort), f=self.f, fraction=self.fraction)
        return _too_small(self.name, setting, f=f)

    def preaggregate(self, cohort: Cohort, context: RoundContext) -> Cohort:
        """The clipped rows; a cohort too small for ``f`` lowers it, and reports it."""
        cohort = finite(cohort, context)
        clients = cohort.matrix()[0]
        if not clients:
            return cohort
        wanted = assumed(identities(context, clients), f=self.f, fraction=self.fraction)
        f = tolerated(context, wanted, most=_most(len(clients)))
        matrix = rules.adaptive_clipping_matrix(cohort.geometry, f=f)
        kept = matrix.diagonal()
        context.report["clipped"] = float((kept < 1.0).sum())
        suspect(context, clients, 1.0 - kept)
        exclude(context, clients, kept == 0.0)
        return cohort.mixed(matrix)

    def row_function(self, n: int) -> Callable[[Tensor], Tensor]:
        """`adaptive_clipping`."""
        f = min(assumed(n, f=self.f, fraction=self.fraction), _most(n))
        return partial(rules.adaptive_clipping, f=f)
