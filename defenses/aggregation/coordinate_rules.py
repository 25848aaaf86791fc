"""Defenses that treat every coordinate alone: median, trimmed mean, mean around the median."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from fedsec.protocol.stage import Guarantee, RoundContext
from fedsec.round_geometry import RoundGeometry
from fedsec.threat import Paper

from . import rules
from .rule import DeclaredRule, RobustRule, Verdict, everybody, off

_YIN = Paper(
    title="Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    authors="Yin, Chen, Ramchandran, Bartlett",
    venue="ICML 2018",
    where="definitions 1 and 2",
)
_ASSUMING = "honest updates that vary little between clients; skewed data loses accuracy even without an attacker"


@dataclass(frozen=True, kw_only=True)
class CoordinateMedian(RobustRule):
    """Coordinate-wise median. Suspicion is the distance to it, in median distances."""

    name: ClassVar[str] = "coordinate-median"
    summary: ClassVar[str] = "Takes the median of every coordinate over the clients"
    paper: ClassVar[Paper | None] = _YIN
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="every coordinate of the global update, which stays between two honest values",
        against="fewer than half of the updates of a round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n d log n per round; accuracy where clients' data differ"

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The median of the round."""
        value = rules.coordinate_median(round_.rows)
        return Verdict(value=value, suspicion=off(round_, value), used=everybody(round_))

    def function(self, n: int) -> Callable[[Tensor], Tensor]:
        """`coordinate_median`."""
        return rules.coordinate_median


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(DeclaredRule):
    """Coordinate-wise trimmed mean. Suspicion is the distance to it, in median distances."""

    name: ClassVar[str] = "trimmed-mean"
    summary: ClassVar[str] = "Averages every coordinate without its f lowest and f highest values"
    paper: ClassVar[Paper | None] = _YIN
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="every coordinate of the global update, which stays between two honest values",
        against="up to f arbitrary updates out of n >= 2f + 1 per round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n d log n per round; accuracy where clients' data differ"

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The trimmed mean of the round."""
        value = rules.trimmed_mean(round_.rows, f=f)
        return Verdict(value=value, suspicion=off(round_, value), used=everybody(round_), selected=round_.n - 2 * f)

    def rule(self, n: int, f: int) -> Callable[[Tensor], Tensor]:
        """`trimmed_mean`."""
        return partial(rules.trimmed_mean, f=f)


@dataclass(frozen=True, kw_only=True)
class MeanAroundMedian(DeclaredRule):
    """Mean around the median. Suspicion is the distance to it, in median distances.

    Unlike a trimmed mean it drops the ``f`` values farthest from the median, on whichever side they lie.
    """

    name: ClassVar[str] = "mean-around-median"
    summary: ClassVar[str] = "Averages the n - f values of every coordinate that are nearest its median"
    paper: ClassVar[Paper | None] = Paper(
        title="Generalized Byzantine-tolerant SGD",
        authors="Xie, Koyejo, Gupta",
        venue="arXiv 1802.10116, 2018",
        where="section 4.3",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="every coordinate of the global update, which stays near the median of the round",
        against="up to f arbitrary updates out of n >= 2f + 1 per round",
        assuming=_ASSUMING,
    )
    cost: ClassVar[str] = "n d log n per round; accuracy where clients' data differ"

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The mean around the median of the round."""
        value = rules.mean_around_median(round_.rows, f=f)
        return Verdict(value=value, suspicion=off(round_, value), used=everybody(round_), selected=round_.n - f)

    def rule(self, n: int, f: int) -> Callable[[Tensor], Tensor]:
        """`mean_around_median`."""
        return partial(rules.mean_around_median, f=f)
