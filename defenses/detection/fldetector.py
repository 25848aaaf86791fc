"""FLDetector: clients whose updates do not follow from their own earlier ones are removed for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.protocol.stage import Cohort, Defense, Guarantee, RoundContext, Setting
from fedsec.threat import Paper

from ..aggregation.rounds import finite
from .filtering import accuse, without
from .history import History
from .two_groups import has_two_groups, upper_group

LEAST = 4
"""Scores below which two groups say nothing."""


@dataclass(frozen=True, kw_only=True)
class FLDetector(Defense):
    """FLDetector (Zhang et al. 2022) on updates.

    An update is predicted as the client's last one plus what the curvature makes of the model's movement since then; a
    client's score is its prediction error, over the mean error of the round, averaged over its last ``window``
    predictions. If the gap statistic finds two groups of scores, the upper one is flagged.

    Where it differs from the paper: training goes on without the flagged clients, and does not start again from the
    initial model, so damage done before stays; clients that sit out rounds are predicted across the gap, up to
    ``window`` rounds; the curvature comes from the mean of the updates that are not flagged, whatever rule follows, and
    from fewer than ``window`` pairs at first; where cohorts change, that mean changes with them, which blurs the
    curvature. Identities never heard before have no score and pass.
    """

    window: Annotated[int, Field(ge=1, description="Rounds of curvature, and predictions averaged")] = 10
    start: Annotated[int, Field(ge=2, description="First round, counted from 0, in which clients can be flagged")] = 15
    repeat: Annotated[
        bool,
        Field(
            description="Whether it looks for attackers again after it has flagged some; each look may flag honest ones"
        ),
    ] = False

    name: ClassVar[str] = "fldetector"
    summary: ClassVar[str] = "Removes clients whose updates cannot be predicted from their own earlier updates"
    family: ClassVar[str] = "anomaly detection"
    paper: ClassVar[Paper | None] = Paper(
        title="FLDetector: Defending Federated Learning Against Model Poisoning Attacks via Detecting Malicious "
        "Clients",
        authors="Zhang, Cao, Jia, Gong",
        venue="KDD 2022",
        where="algorithms 1 to 3",
    )
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the model from clients that send inconsistent updates over the rounds",
        against="model poisoning by clients that are heard in several rounds",
        assuming="honest updates follow the gradient smoothly (many local steps on small batches do not); attackers do "
        "not behave before they attack, do not change their names, and do not poison in a consistent way",
    )
    cost: ClassVar[str] = "one update per identity and 3 window models in memory; honest clients flagged for good"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """It needs several updates per round, and rounds after the first in which it may decide."""
        found = []
        if setting.cohort < LEAST:
            have = f"fldetector compares at least {LEAST} clients per round, and the cohort is {setting.cohort:g}"
            found.append((have, f"use a cohort of {LEAST} or more"))
        if setting.rounds <= self.start:
            have = f"fldetector flags nobody before round {self.start}, and the training has {setting.rounds} rounds"
            found.append((have, f"train for more than {self.start} rounds, or lower `start`"))
        place = setting.stack.index(self.name) if self.name in setting.stack else 0
        if "bucketing" in setting.stack[:place]:
            have = "fldetector remembers clients, and behind bucketing a row is a different mixture in every round"
            found.append((have, "put fldetector before bucketing"))
        return tuple(found)

    def preaggregate(self, cohort: Cohort, context: RoundContext) -> Cohort:
        """The updates of clients that are not flagged; reports the score of each client that has one."""
        sound = finite(cohort, context)
        clients, payload = sound.matrix()
        if context.model is None:
            raise ValueError("fldetector runs at the server, with its model")
        history = History(context.state, window=self.window)
        flagged = history.flagged(clients)
        scores = history.suspicion(clients, payload.values, model=context.model, number=context.round, among=~flagged)
        known = ~torch.isnan(scores)
        accuse(context, [c for c, has in zip(clients, known.tolist(), strict=True) if has], scores[known])
        candidates = known & ~flagged
        if self._looks(context, candidates, found=history.found) and has_two_groups(
            scores[candidates], generator=context.generator("gap")
        ):
            places = candidates.nonzero().flatten()
            flagged[places[upper_group(scores[candidates])]] = True
            history.flag([c for c, out in zip(clients, flagged.tolist(), strict=True) if out])
        history.remember(clients, payload, kept=~flagged, model=context.model, number=context.round)
        context.report["flagged"] = float(flagged.sum())
        return without(sound, flagged, context)

    def _looks(self, context: RoundContext, candidates: Tensor, *, found: bool) -> bool:
        return context.round >= self.start and int(candidates.sum()) >= LEAST and (self.repeat or not found)
