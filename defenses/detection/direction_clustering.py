"""A detector that splits the updates of a round by their direction and drops one of the two groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.stage import Cohort, Defense, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..aggregation.rounds import finite
from .directions import Bipartition, Method, bipartition, leaning
from .filtering import accuse, without

LEAST = 4
"""Updates below which two groups say nothing; nothing is dropped then."""


@dataclass(frozen=True, kw_only=True)
class DirectionClustering(Defense):
    """Two groups by the cosine of updates, of which one is dropped if they are far enough apart.

    The paper clusters over rounds until the groups stop moving; here each round is clustered by itself, and the groups
    count as apart if their mean silhouette reaches ``separation``. Of groups of equal size, the tighter one is the
    smaller. The score of an update is the mean cosine to the suspected group less that to the other group.
    """

    method: Annotated[
        Method,
        Field(
            description="Single linkage on cosine distances (the paper's criterion: the largest cosine between the "
            "groups is as small as possible), average or complete linkage, or 2-means of the directions"
        ),
    ] = "single"
    drop: Annotated[
        Literal["smaller", "tighter"],
        Field(
            description="Suspected group: the smaller one (attackers are few), or the one whose members are more "
            "alike (attackers share a goal, honest clients' data differ)"
        ),
    ] = "smaller"
    separation: Annotated[
        float,
        Field(ge=-1.0, le=1.0, description="Mean silhouette from which the two groups count as apart"),
    ] = 0.25

    name: ClassVar[str] = "direction-clustering"
    summary: ClassVar[str] = "Splits updates into two groups by their direction and drops one if they are far apart"
    family: ClassVar[str] = "anomaly detection"
    paper: ClassVar[Paper | None] = Paper(
        title="On the Byzantine Robustness of Clustered Federated Learning",
        authors="Sattler, Müller, Wiegand, Samek",
        venue="ICASSP 2020",
        where="section 3; groups per round and a threshold on the silhouette in place of the paper's stopping rule",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the model from a group of updates that point another way",
        against="fewer than half of the updates of a round (drop: smaller), or any number that are more alike than the "
        "honest ones (drop: tighter)",
        assuming="honest updates are closer to each other than to the attackers'; attacks that follow the honest "
        "direction pass, and on skewed data honest minorities are dropped",
    )
    cost: ClassVar[str] = "n^2 d per round; honest updates that it drops"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """A handful of updates has no groups."""
        if setting.cohort >= LEAST:
            return ()
        found = (
            f"direction-clustering compares at least {LEAST} updates per round, and the cohort is {setting.cohort:g}"
        )
        return ((found, f"use a cohort of {LEAST} or more"),)

    def preaggregate(self, cohort: Cohort, context: RoundContext) -> Cohort:
        """The updates outside the suspected group; reports the silhouette and the score of each update."""
        sound = finite(cohort, context)
        clients, _ = sound.matrix()
        if len(clients) < LEAST:
            context.report["selected"] = float(len(clients))
            return sound
        cosines = sound.geometry.cosines
        seed = int(torch.randint(1 << 31, (1,), generator=context.generator("starts")))
        groups = bipartition(cosines, method=self.method, seed=seed)
        suspects = self._suspects(groups)
        accuse(context, clients, leaning(cosines, suspects))
        context.report["silhouette"] = groups.separation
        apart = groups.separation >= self.separation and groups.separation > 0.0
        return without(sound, suspects if apart else torch.zeros_like(suspects), context)

    def _suspects(self, groups: Bipartition) -> Tensor:
        sizes = (int((~groups.second).sum()), int(groups.second.sum()))
        tighter = groups.tightness[1] > groups.tightness[0]
        second = sizes[1] < sizes[0] if self.drop == "smaller" and sizes[0] != sizes[1] else tighter
        return groups.second if second else ~groups.second
