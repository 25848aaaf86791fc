"""Robust aggregation rules as defenses of a federation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec import geometry
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, Defense, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from . import rules
from .rounds import assumed, exclude, gather, nothing, one_row, tolerated

Assumed = Annotated[
    int | None,
    Field(ge=0, description="Malicious updates per round that it withstands; empty: ceil(fraction x cohort)"),
]
Fraction = Annotated[
    float,
    Field(ge=0.0, lt=0.5, description="Share of a round's updates assumed to be malicious; used where f is empty"),
]

_BLANCHARD = Paper(
    title="Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    authors="Blanchard, El Mhamdi, Guerraoui, Stainer",
    venue="NeurIPS 2017",
    where="sections 4 and 5",
)
_YIN = Paper(
    title="Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    authors="Yin, Chen, Ramchandran, Bartlett",
    venue="ICML 2018",
    where="definitions 1 and 2",
)
_ASSUMING = "honest updates that vary little between clients; skewed data loses accuracy even without an attacker"


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Defense):
    """Multi-Krum: the mean of the ``m`` updates that lie closest to their ``n - f - 2`` nearest others.

    Example counts are ignored: they are the client's own word. A cohort too small for ``f`` lowers it to what
    ``n >= 2f + 3`` allows, and one of fewer than 3 updates is skipped; both are reported.
    """

    f: Assumed = None
    fraction: Fraction = 0.2
    m: Annotated[int | None, Field(ge=1, description="Updates averaged; empty: n - f")] = None

    name: ClassVar[str] = "multi-krum"
    summary: ClassVar[str] = "Averages the updates that are closest to their nearest neighbours and drops the others"
    family: ClassVar[str] = "robust aggregation"
    paper: ClassVar[Paper | None] = _BLANCHARD
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the direction of the global update",
        against="up to f arbitrary updates out of n >= 2f + 3 per round",
        assuming=f"m <= n - 2f - 2 for the paper's bound; {_ASSUMING}",
    )
    cost: ClassVar[str] = "n^2 d per round, and the updates that it drops"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses cohorts below ``2f + 3``."""
        n = int(setting.cohort)
        f = assumed(n, f=self.f, fraction=self.fraction)
        if n >= 2 * f + 3:
            return ()
        found = f"{self.name} needs 2f + 3 = {2 * f + 3} updates per round to withstand f = {f}, and the cohort is {n}"
        most = (n - 3) // 2
        hint = f"set f = {most} or enlarge the cohort" if most >= 0 else "use a cohort of 3 or more"
        return ((found, hint),)

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """The mean of the selected updates."""
        clients, payload = gather(cohort, context)
        n = len(clients)
        f = tolerated(context, assumed(n, f=self.f, fraction=self.fraction), most=(n - 3) // 2)
        if f < 0:
            return nothing(context, clients, payload)
        chosen = rules.krum_selection(payload.values, f=f, m=self._count(n, f))
        dropped = torch.ones(n, dtype=torch.bool)
        dropped[chosen.cpu()] = False
        exclude(context, clients, dropped)
        context.report["selected"] = float(len(chosen))
        return one_row(rules.mean(payload.values[chosen]), payload.weights[chosen].sum())

    def _count(self, n: int, f: int) -> int:
        return n - f if self.m is None else min(self.m, n - f)


@dataclass(frozen=True, kw_only=True)
class Krum(Defense):
    """Krum: the one update that lies closest to its ``n - f - 2`` nearest others; all others are dropped.

    Small cohorts are treated as by `MultiKrum`.
    """

    f: Assumed = None
    fraction: Fraction = 0.2

    name: ClassVar[str] = "krum"
    summary: ClassVar[str] = "Uses the one update that is closest to its nearest neighbours"
    family: ClassVar[str] = "robust aggregation"
    paper: ClassVar[Paper | None] = _BLANCHARD
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the direction of the global update",
        against="up to f arbitrary updates out of n >= 2f + 3 per round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n^2 d per round, and all updates but one"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses cohorts below ``2f + 3``."""
        found = MultiKrum(f=self.f, fraction=self.fraction).problems(setting)
        return tuple((what.replace(MultiKrum.name, self.name, 1), hint) for what, hint in found)

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """The selected update."""
        return MultiKrum(f=self.f, fraction=self.fraction, m=1).aggregate(cohort, context)


@dataclass(frozen=True, kw_only=True)
class CoordinateMedian(Defense):
    """Coordinate-wise median; example counts are ignored."""

    name: ClassVar[str] = "coordinate-median"
    summary: ClassVar[str] = "Takes the median of every coordinate over the clients"
    family: ClassVar[str] = "robust aggregation"
    paper: ClassVar[Paper | None] = _YIN
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="every coordinate of the global update, which stays between two honest values",
        against="fewer than half of the updates of a round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n d log n per round; accuracy where clients' data differ"

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """The median of the round."""
        clients, payload = gather(cohort, context)
        if not clients:
            return nothing(context, clients, payload)
        context.report["selected"] = float(len(clients))
        return one_row(rules.coordinate_median(payload.values), payload.weights.sum())


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Defense):
    """Coordinate-wise trimmed mean; example counts are ignored.

    A cohort too small for ``f`` lowers it to what ``n >= 2f + 1`` allows, and reports it.
    """

    f: Assumed = None
    fraction: Fraction = 0.2

    name: ClassVar[str] = "trimmed-mean"
    summary: ClassVar[str] = "Averages every coordinate without its f lowest and f highest values"
    family: ClassVar[str] = "robust aggregation"
    paper: ClassVar[Paper | None] = _YIN
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="every coordinate of the global update, which stays between two honest values",
        against="up to f arbitrary updates out of n >= 2f + 1 per round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n d log n per round; accuracy where clients' data differ"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses cohorts below ``2f + 1``."""
        n = int(setting.cohort)
        f = assumed(n, f=self.f, fraction=self.fraction)
        if n >= 2 * f + 1:
            return ()
        found = f"trimmed-mean needs 2f + 1 = {2 * f + 1} updates per round to drop f = {f} on each side, cohort {n}"
        return ((found, f"set f = {max(0, (n - 1) // 2)} or enlarge the cohort"),)

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """The trimmed mean of the round."""
        clients, payload = gather(cohort, context)
        n = len(clients)
        f = tolerated(context, assumed(n, f=self.f, fraction=self.fraction), most=(n - 1) // 2)
        if f < 0:
            return nothing(context, clients, payload)
        context.report["selected"] = float(n - 2 * f)
        return one_row(rules.trimmed_mean(payload.values, f=f), payload.weights.sum())


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Defense):
    """Geometric median of the whole updates, run to convergence; example counts are ignored."""

    smoothing: Annotated[
        float, Field(gt=0.0, le=0.1, description="Smallest distance that counts, in median distances of the round")
    ] = 1e-6
    iterations: Annotated[int, Field(ge=1, le=10_000, description="Weiszfeld steps at the most")] = 1000

    name: ClassVar[str] = "geometric-median"
    summary: ClassVar[str] = "Takes the point with the smallest sum of distances to the updates"
    family: ClassVar[str] = "robust aggregation"
    paper: ClassVar[Paper | None] = Paper(
        title="Robust Aggregation for Federated Learning",
        authors="Pillutla, Kakade, Harchaoui",
        venue="IEEE Transactions on Signal Processing 70, 2022",
        where="algorithm 2",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the global update, which stays within a constant times the honest spread",
        against="fewer than half of the updates of a round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n^2 d per round"

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """The geometric median of the round; reports the smallest and the largest coefficient."""
        clients, payload = gather(cohort, context)
        if not clients:
            return nothing(context, clients, payload)
        share = rules.geometric_median_weights(payload.values, smoothing=self.smoothing, iterations=self.iterations)
        context.report.update(
            {
                "selected": float(len(clients)),
                "smallest coefficient": float(share.min()),
                "largest coefficient": float(share.max()),
            }
        )
        return one_row(geometry.combine(payload.values, share), payload.weights.sum())


@dataclass(frozen=True, kw_only=True)
class CenteredClipping(Defense):
    """Centered clipping about the previous aggregate; example counts are ignored.

    The paper clips worker momenta and its guarantee needs them. Clients here are stateless and send updates, so
    client momentum is not done: this is the aggregator alone, without that guarantee. The first round is
    clipped about zero.
    """

    tau: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="Clipping radius, in the unit of the updates (L2); empty: the cohort's median distance to "
            "the previous aggregate, a choice of this suite that fewer than half of the clients cannot move",
        ),
    ] = None
    iterations: Annotated[int, Field(ge=1, le=100, description="Clipping steps per round")] = 1

    name: ClassVar[str] = "centered-clipping"
    summary: ClassVar[str] = (
        "Clips every update's distance to the previous aggregate, then averages (without client momentum)"
    )
    family: ClassVar[str] = "robust aggregation"
    paper: ClassVar[Paper | None] = Paper(
        title="Learning from History for Byzantine Robust Optimization",
        authors="Karimireddy, He, Jaggi",
        venue="ICML 2021",
        where="algorithm 2, without the worker momentum of algorithm 1",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the global update: one client moves it by at most tau / n from the previous one per step",
        against="any updates, in proportion to how many of the cohort they are",
        assuming="the previous aggregate is near the honest mean; the paper's convergence proof does not cover "
        "this version, which has no client momentum",
    )
    cost: ClassVar[str] = "n d per step; a radius that is too small slows training"

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """The clipped mean; keeps it in the state as the next round's centre."""
        clients, payload = gather(cohort, context)
        if not clients:
            return nothing(context, clients, payload)
        start = context.state.get("previous", torch.zeros_like(payload.values[0]))
        norms = geometry.row_norms(payload.values, centre=start)
        tau = float(norms.quantile(0.5)) if self.tau is None else self.tau
        context.report.update({"selected": float(len(clients)), "tau": tau, "clipped": float((norms > tau).sum())})
        # a median distance of 0 means that most clients repeat the previous aggregate
        result = (
            start.clone()
            if tau == 0.0
            else rules.centered_clipping(payload.values, tau=tau, iterations=self.iterations, start=start)
        )
        context.state["previous"] = result
        return one_row(result, payload.weights.sum())
