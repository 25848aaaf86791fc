"""Robust learning rate: coordinates about whose sign too few clients agree are walked backwards."""

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
from fedsec.round_geometry import RoundGeometry, coordinatewise
from fedsec.threat import Paper

from .rounds import assumed, tolerated
from .rule import Assumed, Fraction, RobustRule, Verdict, everybody


@coordinatewise
def robust_learning_rate(U: Tensor, *, threshold: int) -> Tensor:
    """Mean of the rows, with the other sign where ``|sum of signs| < threshold``, ``(n, d)`` to ``(d,)``.

    Ozdayi, Kantarcioglu, Gel 2021, algorithm 1, with the unweighted mean as its aggregation.

    Args:
        U: ``(n, d)``.
        threshold: ``theta``; more than ``n`` turns everything round, 0 nothing.

    Raises:
        ValueError: ``threshold < 0``, or the matrix is not finite.
    """
    geometry.check_rows(U)
    if threshold < 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    return _turned(U, threshold)[0]


def _turned(U: Tensor, threshold: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rule, the share of coordinates ``(n,)`` in which each row is against the sign of the sum, and that turned."""
    n, d = U.shape
    result = torch.empty(d, dtype=U.dtype, device=U.device)
    against = torch.zeros(n, dtype=torch.float64, device=U.device)
    turned = torch.zeros((), dtype=torch.int64, device=U.device)
    for span in geometry.spans(d):
        block = U[:, span]
        signs = block.sign()
        votes = signs.sum(dim=0)
        back = votes.abs() < threshold
        mean = block.double().mean(dim=0)
        result[span] = torch.where(back, -mean, mean).to(U.dtype)
        against += (signs * votes.sign() < 0).sum(dim=1)
        turned += back.sum()
    return result, against / d, turned / d


@dataclass(frozen=True, kw_only=True)
class RobustLearningRate(RobustRule):
    """Robust learning rate: a coordinate counts forwards only if enough more clients want one sign than the other.

    The threshold must lie above the number of malicious clients, who could otherwise pass it alone, and below what the
    honest reach together; the authors take 4 of 10. Suspicion is the share of coordinates in which a client is against
    the majority.
    """

    threshold: Annotated[
        int | None,
        Field(ge=0, description="Smallest absolute sum of signs that counts as agreement; empty: f + 1"),
    ] = None
    f: Assumed = None
    fraction: Fraction = 0.2

    name: ClassVar[str] = "robust-learning-rate"
    summary: ClassVar[str] = "Reverses the coordinates of the mean about whose sign too few clients agree"
    paper: ClassVar[Paper | None] = Paper(
        title="Defending Against Backdoors in Federated Learning with Robust Learning Rate",
        authors="Ozdayi, Kantarcioglu, Gel",
        venue="AAAI 2021",
        where="algorithm 1",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the model from backdoors that need coordinates which honest clients do not agree about",
        against="fewer malicious clients per round than the threshold",
        assuming="honest clients agree about what matters: with skewed data they do not, and training turns round",
    )
    cost: ClassVar[str] = "n d per round; slower training, the more the higher the threshold"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """Refuses a threshold that not even all clients reach, or that the malicious reach alone."""
        n = int(setting.cohort)
        f = assumed(n, f=self.f, fraction=self.fraction)
        theta = self._theta(f)
        if theta > n:
            found = f"robust-learning-rate would reverse everything: the threshold is {theta} and the cohort {n}"
            return ((found, "lower threshold or f"),)
        if theta <= f:
            found = f"f = {f} malicious clients reach the threshold {theta} of robust-learning-rate alone"
            return ((found, f"set threshold: {f + 1} or more, or lower f"),)
        return ()

    def allowed(self, rows: int, people: int, context: RoundContext) -> int:
        """An ``f`` whose threshold the rows can reach."""
        return tolerated(context, assumed(people, f=self.f, fraction=self.fraction), most=rows - 1)

    def decide(self, round_: RoundGeometry, f: int, context: RoundContext) -> Verdict:
        """The mean with its turned coordinates; reports the share turned."""
        value, against, turned = _turned(round_.rows, self._theta(f))
        context.report["reversed share"] = float(turned)
        return Verdict(value=value, suspicion=against, used=everybody(round_))

    def function(self, n: int) -> Callable[[Tensor], Tensor]:
        """`robust_learning_rate`."""
        f = min(assumed(n, f=self.f, fraction=self.fraction), n - 1)
        return partial(robust_learning_rate, threshold=self._theta(f))

    def breakdown(self, setting: Setting) -> float | None:
        """No bound is proven on what it lets through."""
        return None

    def _theta(self, f: int) -> int:
        return f + 1 if self.threshold is None else self.threshold
