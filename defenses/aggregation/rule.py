"""The two bases of robust rules: one that is told how many updates are malicious, and one that is not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.payload import Plain
from fedsec.protocol.stage import Cohort, Defense, RoundContext, Setting
from fedsec.round_geometry import RoundGeometry

from .rounds import assumed, exclude, finite, identities, nothing, one_row, relative, suspect, tolerated

Assumed = Annotated[
    int | None,
    Field(ge=0, description="Malicious updates per round that it withstands; empty: ceil(fraction x cohort)"),
]
Fraction = Annotated[
    float,
    Field(ge=0.0, lt=0.5, description="Share of a round's updates assumed to be malicious; used where f is empty"),
]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule made of a round.

    Attributes:
        value: ``(d,)`` the aggregate.
        suspicion: ``(n,)`` how suspicious each row is, higher is more, comparable over rounds.
        used: ``(n,)`` bool, rows that went into the value; the others are reported as excluded.
        selected: rows that counted, where that is another number than those used.
    """

    value: Tensor
    suspicion: Tensor
    used: Tensor
    selected: int | None = None


def weighed(round_: RoundGeometry, share: Tensor, suspicion: Tensor) -> Verdict:
    """The verdict of a rule that gives each row a coefficient ``(n,)``; rows of coefficient 0 are excluded."""
    return Verdict(value=round_.combine(share), suspicion=suspicion, used=share != 0.0)


def apart(round_: RoundGeometry, share: Tensor) -> Tensor:
    """Distance of each row to ``sum_i c_i x_i`` (coefficients of sum 1), in median distances: ``(n,)`` to ``(n,)``."""
    reach = round_.gram @ share
    squares = round_.gram.diagonal() - 2.0 * reach + share @ reach
    return relative(squares.clamp_min(0.0).sqrt())


def off(round_: RoundGeometry, value: Tensor) -> Tensor:
    """Distance of each row to a point ``(d,)``, in median distances: ``(n,)``."""
    return relative(geometry.row_norms(round_.rows, centre=value))


class RobustRule(Defense):
    """A rule that ignores example counts, which are the client's own word, and runs on any cohort that came."""

    family: ClassVar[str] = "robust aggregation"

    @abstractmethod
    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict | None:
        """The round's aggregate; ``None`` if no row of it can be trusted.

        Args:
            round_: the finite rows, at least one.
            f: how many of them are assumed to be malicious.
            context: of the round.
        """

    def aggregate(self, cohort: Cohort, context: RoundContext) -> Plain:
        """What `decide` makes of the finite rows; reports who was excluded and how suspicious everybody is."""
        cohort = finite(cohort, context)
        clients, payload = cohort.matrix()
        f = self.allowed(len(clients), identities(context, clients), context)
        verdict = self.decide(cohort.geometry, f, context) if clients and f >= 0 else None
        if verdict is None:
            return nothing(context, clients, payload)
        exclude(context, clients, ~verdict.used)
        suspect(context, clients, verdict.suspicion)
        used = verdict.used.to(payload.weights.device)
        context.report["selected"] = float(used.sum() if verdict.selected is None else verdict.selected)
        return one_row(verdict.value, payload.weights[used].sum())

    def allowed(self, rows: int, people: int, context: RoundContext) -> int:
        """The ``f`` of a round of so many rows that stand for so many identities; negative: it cannot run."""
        return 0

    def breakdown(self, setting: Setting) -> float | None:
        """Fewer than half of the updates."""
        n = int(setting.cohort)
        return max(0, (n - 1) // 2) / n if n else 0.0


@dataclass(frozen=True, kw_only=True)
class DeclaredRule(RobustRule):
    """A rule that is told how many malicious updates to withstand, and states its bound on that.

    A cohort too small for ``f`` lowers it to what the bound allows, and one too small for ``f = 0`` is skipped;
    both are reported. Behind bucketing ``f`` is a share of the identities, and the bound holds for the buckets.
    """

    f: Assumed = None
    fraction: Fraction = 0.2

    def least(self, f: int) -> int:
        """The smallest number of updates with which it withstands ``f``."""
        return 2 * f + 1

    def bound(self) -> str:
        """How `least` reads."""
        return "2f + 1"

    def most(self, n: int) -> int:
        """The largest ``f`` that ``n`` updates allow; -1 if they are too few for any."""
        return next((f for f in range(n, -1, -1) if self.least(f) <= n), -1)

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses cohorts below the bound."""
        n = int(setting.cohort)
        f = assumed(n, f=self.f, fraction=self.fraction)
        least, most = self.least(f), self.most(n)
        if n >= least:
            return ()
        found = f"{self.name} needs {self.bound()} = {least} updates per round to withstand f = {f}, the cohort is {n}"
        hint = f"set f = {most} or enlarge the cohort" if most >= 0 else f"use a cohort of {self.least(0)} or more"
        return ((found, hint),)

    def allowed(self, rows: int, people: int, context: RoundContext) -> int:
        """See `tolerated`."""
        return tolerated(context, assumed(people, f=self.f, fraction=self.fraction), most=self.most(rows))

    def breakdown(self, setting: Setting) -> float | None:
        """What it is told to withstand."""
        n = int(setting.cohort)
        return max(0, min(assumed(n, f=self.f, fraction=self.fraction), self.most(n))) / n if n else 0.0

    def function(self, n: int) -> Callable[[Tensor], Tensor] | None:
        """The rule with the ``f`` of a round of ``n`` updates."""
        f = min(assumed(n, f=self.f, fraction=self.fraction), self.most(n))
        return self.rule(n, f) if f >= 0 else None

    def rule(self, n: int, f: int) -> Callable[[Tensor], Tensor] | None:
        """The pure rule; ``None`` if it is not one."""
        return None


def everybody(round_: RoundGeometry) -> Tensor:
    """``(n,)`` bool, all true: what a rule that drops no row as a whole has used."""
    return torch.ones(round_.n, dtype=torch.bool, device=round_.device)
