"""Defenses that look for a centre of the updates: geometric median, centered clipping, divide and conquer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.stage import Guarantee, RoundContext, Setting
from fedsec.round_geometry import RoundGeometry, weighs
from fedsec.threat import Paper

from . import rules
from .rounds import assumed, relative
from .rule import DeclaredRule, RobustRule, Verdict, apart, everybody, weighed
from .spectral import sampled_scores
from .weiszfeld import Start

_ASSUMING = "honest updates that vary little between clients; skewed data loses accuracy even without an attacker"


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(RobustRule):
    """Geometric median of the whole updates, run to convergence. Suspicion is the distance to it, in the median one.

    A few steps at a fixed ``nu``, as other implementations take (ByzFL: 3 from the origin at 0.1), are another rule:
    they end before the median, and do not scale with the updates.
    """

    smoothing: Annotated[
        float, Field(gt=0.0, le=0.1, description="Smallest distance that counts, in median distances of the round")
    ] = 1e-6
    iterations: Annotated[int, Field(ge=1, le=10_000, description="Weiszfeld steps at the most")] = 1000
    nu: Annotated[
        float | None, Field(gt=0.0, description="Smallest distance that counts, in updates' unit; replaces smoothing")
    ] = None
    start: Annotated[Start, Field(description="Where the steps begin; matters only if they are few")] = "near half"

    name: ClassVar[str] = "geometric-median"
    summary: ClassVar[str] = "Takes the point with the smallest sum of distances to the updates"
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

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The geometric median of the round; reports the smallest and the largest coefficient."""
        share = rules.geometric_median_coefficients(round_, **self._steps)
        context.report["smallest coefficient"] = float(share.min())
        context.report["largest coefficient"] = float(share.max())
        return Verdict(value=round_.combine(share), suspicion=apart(round_, share), used=everybody(round_))

    def function(self, n: int) -> Callable[[Tensor], Tensor]:
        """`geometric_median`."""
        return partial(rules.geometric_median, **self._steps)

    @property
    def _steps(self) -> dict[str, Any]:
        """How it is computed, as arguments of `geometric_median`."""
        return {"smoothing": self.smoothing, "iterations": self.iterations, "nu": self.nu, "start": self.start}


@dataclass(frozen=True, kw_only=True)
class CenteredClipping(RobustRule):
    """Centered clipping about the previous aggregate.

    The paper clips worker momenta, and its guarantee needs them: put ``client-momentum`` before this rule for the
    paper's algorithm 1. Without it this is the aggregator alone. The first round is clipped about zero. Suspicion is
    the distance to the centre in radii: above 1 an update is clipped.
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
    summary: ClassVar[str] = "Clips every update's distance to the previous aggregate, then averages"
    paper: ClassVar[Paper | None] = Paper(
        title="Learning from History for Byzantine Robust Optimization",
        authors="Karimireddy, He, Jaggi",
        venue="ICML 2021",
        where="algorithm 2; with client-momentum before it, algorithm 1",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the global update: one client moves it by at most tau / n from the previous one per step",
        against="any updates, in proportion to how many of the cohort they are",
        assuming="the previous aggregate is near the honest mean; the paper's convergence proof needs client-momentum "
        "before this rule and a radius that follows from the honest variance",
    )
    cost: ClassVar[str] = "n d per step; a radius that is too small slows training"

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The clipped mean; keeps it in the state as the next round's centre."""
        rows = round_.rows
        start = context.state.get("previous", torch.zeros_like(rows[0]))
        norms = geometry.row_norms(rows, centre=start)
        tau = float(norms.quantile(0.5)) if self.tau is None else self.tau
        context.report.update({"tau": tau, "clipped": float((norms > tau).sum())})
        # a median distance of 0 means that most clients repeat the previous aggregate
        result = (
            start.clone()
            if tau == 0.0
            else rules.centered_clipping(rows, tau=tau, iterations=self.iterations, start=start)
        )
        context.state["previous"] = result
        suspicion = norms / tau if tau > 0.0 else relative(norms)
        return Verdict(value=result, suspicion=suspicion, used=everybody(round_))

    def breakdown(self, setting: Setting) -> float | None:
        """Theorem III of the paper: a share of at most 0.1, of momenta, with a radius from the honest variance."""
        return 0.1 if "client-momentum" in setting.stack and self.tau is not None else None

    def function(self, n: int) -> Callable[[Tensor], Tensor]:
        """What it does in a first round, without memory: clipping about zero."""
        if self.tau is None:
            return partial(clipping_about_zero, iterations=self.iterations)
        return partial(rules.centered_clipping, tau=self.tau, iterations=self.iterations)


def _about_zero(round_: RoundGeometry, *, iterations: int = 1) -> Tensor:
    tau = float(round_.norms.quantile(0.5))
    if tau == 0.0:
        return torch.zeros(round_.n, dtype=torch.float64, device=round_.device)
    return rules.centered_clipping_coefficients(round_, tau=tau, iterations=iterations)


@weighs(_about_zero)
def clipping_about_zero(U: Tensor, *, iterations: int = 1) -> Tensor:
    """`centered_clipping` about zero with the median norm as its radius, ``(n, d)`` to ``(d,)``."""
    round_ = RoundGeometry(U)
    return round_.combine(_about_zero(round_, iterations=iterations))


@dataclass(frozen=True, kw_only=True)
class DivideAndConquer(DeclaredRule):
    """Divide and conquer (DnC): drops what stands out along the leading direction of samples of coordinates.

    Suspicion is the largest squared projection over the samples, in median projections.
    """

    c: Annotated[float, Field(gt=0.0, description="Updates dropped per sample, in units of f")] = 1.0
    iterations: Annotated[int, Field(ge=1, le=100, description="Samples; what one of them marks is dropped")] = 1
    sample: Annotated[int | None, Field(ge=1, description="Coordinates per sample; empty: all")] = 10_000

    name: ClassVar[str] = "dnc"
    summary: ClassVar[str] = "Drops the updates that stand out along the leading direction of sampled coordinates"
    paper: ClassVar[Paper | None] = Paper(
        title="Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated Learning",
        authors="Shejwalkar, Houmansadr",
        venue="NDSS 2021",
        where="algorithm 2",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the mean from updates that share a direction which spreads the round",
        against="up to f updates out of n >= 2f + 1 per round, with c f < n",
        assuming=f"malicious updates are what spreads the round most; {_ASSUMING}",
    )
    cost: ClassVar[str] = "n^2 times the sampled coordinates per round, and the updates that it drops"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses cohorts below ``2f + 1``, and a share ``c f`` that is everybody."""
        n = int(setting.cohort)
        marked = int(self.c * assumed(n, f=self.f, fraction=self.fraction) + 1e-9)
        if marked < n:
            return super().problems(setting)
        found = f"dnc would mark c f = {marked} updates per sample, and the cohort is {n}"
        return (*super().problems(setting), (found, "lower c or f"))

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict | None:
        """The mean of the updates that no sample marked; nothing if all were."""
        n = round_.n
        scores = sampled_scores(
            round_.rows, generator=context.generator("coordinates"), iterations=self.iterations, sample=self.sample
        )
        marked = torch.zeros(n, dtype=torch.bool, device=round_.device)
        dropped = min(int(self.c * f + 1e-9), n - 1)
        for row in scores:
            marked[row.argsort(stable=True)[n - dropped :]] = True
        if bool(marked.all()):
            return None
        suspicion = torch.stack([relative(row) for row in scores]).amax(dim=0)
        return weighed(round_, (~marked).double() / (~marked).sum(), suspicion)

    def rule(self, n: int, f: int) -> Callable[[Tensor], Tensor] | None:
        """`divide_and_conquer` of all coordinates; ``None`` where it samples, which nobody can foresee."""
        if self.sample is not None or self.iterations > 1:
            return None
        return partial(rules.divide_and_conquer, f=f, c=self.c, sample=None, generator=torch.Generator())

    def breakdown(self, setting: Setting) -> float | None:
        """Its bound needs a separation of the honest from the malicious that no share alone gives."""
        return None
