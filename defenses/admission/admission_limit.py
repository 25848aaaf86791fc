"""Limits on how many new identities are let in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec.protocol.stage import Defense, Guarantee, RoundContext, Setting

from .refusals import report


@dataclass(frozen=True, kw_only=True)
class AdmissionLimit(Defense):
    """A queue before the door: so many new identities per round, and so many in all.

    Nobody can tell new identities apart, so they wait in the order in which they first asked, drawn by lot among those
    of one round. Who was let in once stays in. In the first round everybody is new, the honest clients too.
    """

    new_per_round: Annotated[int, Field(ge=1, description="Identities never let in before, admitted per round")] = 5
    total: Annotated[
        int | None, Field(ge=1, description="Identities admitted over the whole training; empty: no limit")
    ] = None

    name: ClassVar[str] = "admission-limit"
    summary: ClassVar[str] = "Lets only so many new identities in per round, and only so many in all"
    family: ClassVar[str] = "admission"
    guarantee: ClassVar[Guarantee] = Guarantee(
        protects="the cohort from a sudden flood of identities",
        against="an adversary that makes identities up faster than they are let in",
        assuming="the training is over, or somebody looks, before the flood is through the door; honest newcomers "
        "queue between the made-up ones, and with a total some of them never get in",
    )
    cost: ClassVar[str] = "rounds that honest newcomers wait; small cohorts at first"

    def problems(self, setting: Setting) -> tuple[tuple[str, str], ...]:
        """A total below the cohort starves every round."""
        if self.total is None or self.total >= setting.cohort:
            return ()
        found = f"admission-limit lets {self.total} identities in, and a round wants {setting.cohort:g}"
        return ((found, f"set total to {setting.cohort:g} or more"),)

    def admit(self, identities: tuple[int, ...], context: RoundContext) -> tuple[int, ...]:
        """Those let in before, and the first of the queue; reports how many wait."""
        state = context.state
        nobody = torch.empty(0, dtype=torch.int64)
        inside, waiting = state.get("inside", nobody).tolist(), state.get("waiting", nobody).tolist()
        known = {*inside, *waiting}
        fresh = torch.tensor([identity for identity in identities if identity not in known], dtype=torch.int64)
        waiting += fresh[torch.randperm(len(fresh), generator=context.generator("lot"))].tolist()
        room = self.new_per_round if self.total is None else min(self.new_per_round, self.total - len(inside))
        there = set(identities)
        entering = [identity for identity in waiting if identity in there][:room]
        gone = set(entering)
        state["inside"] = torch.tensor(inside + entering, dtype=torch.int64)
        state["waiting"] = torch.tensor([i for i in waiting if i not in gone], dtype=torch.int64)
        return report(context, identities, {*inside, *entering})
