"""A detector that drops updates whose statistics stand out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec.protocol.stage import Cohort, Defense, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..aggregation.rounds import finite
from .features import Method, outlier_scores, select_outliers
from .filtering import accuse, without

THRESHOLDS: dict[Method, float] = {"mad": 5.0, "pca": 5.0, "isolation-forest": 0.6}
LEAST = 4
"""Updates below which no deviation can be told from the spread; nothing is dropped then."""


@dataclass(frozen=True, kw_only=True)
class UpdateStatistics(Defense):
    """Anomaly detection on update statistics.

    What is kept goes on to the stack's rule, or to the plain mean. Scores are relative to the round; nothing is
    learned over rounds. The forest finds single outliers; attackers that
    send one vector form a cluster and mask each other (30 % of ``ipm`` pass it, and none passes ``mad`` or ``pca``).
    """

    method: Annotated[
        Method,
        Field(
            description="Largest deviation of a feature, an isolation forest on the features, or the updates' first "
            "principal component"
        ),
    ] = "mad"
    threshold: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="Score above which an update is dropped: robust standard deviations for mad and pca "
            "(empty: 5), the forest's score in (0, 1) for isolation-forest (empty: 0.6)",
        ),
    ] = None
    max_drop: Annotated[
        float, Field(ge=0.0, le=0.5, description="Largest share of a round's updates that may be dropped")
    ] = 0.4

    name: ClassVar[str] = "update-statistics"
    summary: ClassVar[str] = (
        "Drops updates whose norm, direction, signs or distances stand out, and passes on the others"
    )
    family: ClassVar[str] = "anomaly detection"
    paper: ClassVar[Paper | None] = Paper(
        title="Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated Learning",
        authors="Shejwalkar, Houmansadr",
        venue="NDSS 2021",
        where="section 5 (the spectral score of method pca); Liu, Ting & Zhou, ICDM 2008 (isolation forest)",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the mean from updates that look unlike the others",
        against="fewer than half of the updates of a round, if they stand out",
        assuming="a heuristic without proof: attacks that stay inside the honest spread (alie, min-max, min-sum) pass, "
        "and honest clients with unusual data are dropped",
    )
    cost: ClassVar[str] = "n^2 d per round; honest updates that it drops"
    revision: ClassVar[int] = 2

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """A handful of updates has no statistics."""
        if setting.cohort >= LEAST:
            return ()
        found = f"update-statistics compares at least {LEAST} updates per round, and the cohort is {setting.cohort:g}"
        return ((found, f"use a cohort of {LEAST} or more"),)

    def preaggregate(self, cohort: Cohort, context: RoundContext) -> Cohort:
        """The updates that are kept; reports every score, how many were dropped and the largest score."""
        sound = finite(cohort, context)
        clients, payload = sound.matrix()
        n = len(clients)
        if n < LEAST:
            context.report["selected"] = float(n)
            return sound
        seed = int(torch.randint(1 << 31, (1,), generator=context.generator("forest")))
        scores = outlier_scores(payload.values, method=self.method, seed=seed)
        threshold = THRESHOLDS[self.method] if self.threshold is None else self.threshold
        context.report["largest score"] = float(scores.max())
        accuse(context, clients, scores)
        return without(sound, select_outliers(scores, threshold=threshold, most=int(self.max_drop * n + 1e-9)), context)
