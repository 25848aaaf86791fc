"""An attack of one's own: the gap attack of Yeom et al. (CSF 2018)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import MembershipScores
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Attack
from fedsec.protocol.view import View
from fedsec.threat import Capability, Knowledge, Paper, Stage, ThreatModel


@dataclass(frozen=True, kw_only=True)
class Gap(Attack):
    """Calls those examples members that are classified rightly; `weight` breaks ties by the model's confidence."""

    weight: Annotated[float, Field(ge=0.0, lt=1.0, description="Weight of the true class's probability")] = 0.0
    name: ClassVar[str] = "gap"
    summary: ClassVar[str] = "Calls those examples members that the published model classifies rightly"
    family: ClassVar[str] = "membership"
    paper: ClassVar[Paper | None] = Paper("Privacy Risk in Machine Learning", "Yeom et al.", "CSF 2018", "section 3.2")
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="Somebody who sees the model's answers finds out whether a person's record was trained on",
        position="outsider",
        knowledge=frozenset({Knowledge.CANDIDATES}),
        capabilities=frozenset({Capability.QUERY_ACCESS}),
        stage=Stage.DEPLOYMENT,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)
    judge: ClassVar[str] = "membership"

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> MembershipScores:
        """One score per candidate, higher means member; see `Attack.run`."""
        chances = facts.model.instance(view.of(Topic.RELEASE)[-1].values)(facts.candidates.x).softmax(1).detach()
        true = chances.gather(1, facts.candidates.y[:, None])[:, 0]
        return MembershipScores(scores=(true == chances.max(1).values) + self.weight * true)
