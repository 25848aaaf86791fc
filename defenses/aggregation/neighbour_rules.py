"""Defenses that judge whole updates by their distances: Krum, Multi-Krum, Bulyan, minimum-diameter averaging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec import geometry
from fedsec.protocol.stage import Guarantee, RoundContext, Setting
from fedsec.round_geometry import RoundGeometry
from fedsec.threat import Paper

from . import rules
from .bulyan import bulyan_picks
from .nearest import PRESETS, Preset, scores_of
from .rounds import assumed, relative
from .rule import DeclaredRule, Verdict, apart, off, weighed

Reading = Annotated[
    Preset,
    Field(
        description="Whose reading of Krum: the paper's, or that of another implementation, to reproduce its numbers"
    ),
]

_BLANCHARD = Paper(
    title="Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    authors="Blanchard, El Mhamdi, Guerraoui, Stainer",
    venue="NeurIPS 2017",
    where="sections 4 and 5",
)
_ASSUMING = "honest updates that vary little between clients; skewed data loses accuracy even without an attacker"


@dataclass(frozen=True, kw_only=True)
class MultiKrum(DeclaredRule):
    """Multi-Krum: the mean of the ``m`` updates that lie closest to their ``n - f - 2`` nearest others.

    Suspicion is the Krum score, in median scores of the round.
    """

    m: Annotated[int | None, Field(ge=1, description="Updates averaged; empty: n - f, or what the preset says")] = None
    preset: Reading = "blanchard17"

    name: ClassVar[str] = "multi-krum"
    summary: ClassVar[str] = "Averages the updates that are closest to their nearest neighbours and drops the others"
    paper: ClassVar[Paper | None] = _BLANCHARD
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the direction of the global update",
        against="up to f arbitrary updates out of n >= 2f + 3 per round",
        assuming=f"m <= n - 2f - 2 for the paper's bound; {_ASSUMING}",
    )
    cost: ClassVar[str] = "n^2 d per round, and the updates that it drops"

    def least(self, f: int) -> int:
        """The preset's; the paper's is ``2f + 3``."""
        return PRESETS[self.preset].least(f)

    def bound(self) -> str:
        """The preset's."""
        return PRESETS[self.preset].bound

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The mean of the selected updates."""
        share = rules.multi_krum_coefficients(round_, f=f, m=self._count(round_.n, f), preset=self.preset)
        return weighed(round_, share, relative(scores_of(round_, f=f, preset=self.preset)))

    def rule(self, n: int, f: int) -> Callable[[Tensor], Tensor]:
        """`multi_krum`."""
        return partial(rules.multi_krum, f=f, m=self._count(n, f), preset=self.preset)

    def breakdown(self, setting: Setting) -> float | None:
        """What it is told to withstand, in the paper's reading and if ``m <= n - 2f - 2``: more is not proven."""
        n = int(setting.cohort)
        f = min(assumed(n, f=self.f, fraction=self.fraction), self.most(n))
        proven = self.preset == "blanchard17" and self.m is not None and self.m <= n - 2 * f - 2
        return super().breakdown(setting) if proven else None

    def _count(self, n: int, f: int) -> int | None:
        return None if self.m is None else min(self.m, PRESETS[self.preset].most(n, f))


@dataclass(frozen=True, kw_only=True)
class Krum(DeclaredRule):
    """Krum: the one update that lies closest to its ``n - f - 2`` nearest others; all others are dropped."""

    preset: Reading = "blanchard17"

    name: ClassVar[str] = "krum"
    summary: ClassVar[str] = "Uses the one update that is closest to its nearest neighbours"
    paper: ClassVar[Paper | None] = _BLANCHARD
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the direction of the global update",
        against="up to f arbitrary updates out of n >= 2f + 3 per round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n^2 d per round, and all updates but one"

    def least(self, f: int) -> int:
        """The preset's; the paper's is ``2f + 3``."""
        return PRESETS[self.preset].least(f)

    def bound(self) -> str:
        """The preset's."""
        return PRESETS[self.preset].bound

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The selected update."""
        share = rules.krum_coefficients(round_, f=f, preset=self.preset)
        return weighed(round_, share, relative(scores_of(round_, f=f, preset=self.preset)))

    def rule(self, n: int, f: int) -> Callable[[Tensor], Tensor]:
        """`krum`."""
        return partial(rules.krum, f=f, preset=self.preset)

    def breakdown(self, setting: Setting) -> float | None:
        """What it is told to withstand, in the paper's reading; nothing is proven for the others."""
        return super().breakdown(setting) if self.preset == "blanchard17" else None


@dataclass(frozen=True, kw_only=True)
class Bulyan(DeclaredRule):
    """Bulyan of Krum: the mean around the median of the ``n - 2f`` updates that Krum picks one after the other.

    Suspicion is the distance to the aggregate, in median distances.
    """

    name: ClassVar[str] = "bulyan"
    summary: ClassVar[str] = "Picks updates by repeated Krum, then averages each coordinate near its median"
    paper: ClassVar[Paper | None] = Paper(
        title="The Hidden Vulnerability of Distributed Learning in Byzantium",
        authors="El Mhamdi, Guerraoui, Rouault",
        venue="ICML 2018",
        where="section 4",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="every coordinate of the global update, which stays near values that honest clients sent",
        against="up to f arbitrary updates out of n >= 4f + 3 per round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n^2 d + n^3 per round; accuracy where clients' data differ"

    def least(self, f: int) -> int:
        """``4f + 3``."""
        return 4 * f + 3

    def bound(self) -> str:
        """``4f + 3``."""
        return "4f + 3"

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The mean around the median of those picked; the others are excluded."""
        picks = bulyan_picks(round_, f=f).sort().values
        value = geometry.mean_around_median(round_.rows[picks], len(picks) - 2 * f)
        used = torch.zeros(round_.n, dtype=torch.bool, device=round_.device)
        used[picks] = True
        return Verdict(value=value, suspicion=off(round_, value), used=used)

    def rule(self, n: int, f: int) -> Callable[[Tensor], Tensor]:
        """`bulyan`."""
        return partial(rules.bulyan, f=f)


@dataclass(frozen=True, kw_only=True)
class MinimumDiameter(DeclaredRule):
    """Minimum-diameter averaging: the mean of the ``n - f`` updates that lie closest together; the others are dropped.

    Suspicion is the distance to the aggregate, in median distances.
    """

    name: ClassVar[str] = "minimum-diameter-averaging"
    summary: ClassVar[str] = "Averages the n - f updates whose largest mutual distance is smallest"
    paper: ClassVar[Paper | None] = Paper(
        title="Distributed Momentum for Byzantine-resilient Stochastic Gradient Descent",
        authors="El Mhamdi, Guerraoui, Rouault",
        venue="ICLR 2021",
        where="appendix, after Rousseeuw 1985",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the global update, which stays within the honest diameter",
        against="up to f arbitrary updates out of n >= 2f + 1 per round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n^2 d per round and a search that can grow exponentially with f"

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The mean of the subset."""
        share = rules.minimum_diameter_averaging_coefficients(round_, f=f)
        return weighed(round_, share, apart(round_, share))

    def rule(self, n: int, f: int) -> Callable[[Tensor], Tensor]:
        """`minimum_diameter_averaging`."""
        return partial(rules.minimum_diameter_averaging, f=f)
