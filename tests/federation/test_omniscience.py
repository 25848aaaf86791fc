"""What an omniscient adversary sees, and the server's side as the function that it searches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor

from fedsec.audit.challenge import public_facts
from fedsec.defenses.clipping.plugins import ClipNorm, ClipValue
from fedsec.defenses.encryption.ckks import CKKS
from fedsec.federation.rehearsal import Rehearsal
from fedsec.federation.rounds import Federation
from fedsec.protocol.events import Topic
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.registry import get
from fedsec.round_geometry import steps_of
from fedsec.threat import Capability, Knowledge, Stage, ThreatModel


@dataclass(frozen=True, kw_only=True)
class Watches(Adversary):
    """Sends what it trained, and remembers the honest updates that it was shown."""

    omniscient: Annotated[bool, Field(description="whether it is shown them")] = True
    fraction: Annotated[float, Field(description="share")] = 0.25
    seen: list[Tensor] = field(default_factory=list)
    name: ClassVar[str] = "watches"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="test",
        position="client:0",
        knowledge=frozenset({Knowledge.HONEST_UPDATES}),
        capabilities=frozenset({Capability.MODEL_CONTROL}),
        stage=Stage.TRAINING,
    )
    judge: ClassVar[str] = "availability"

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        assert coalition.honest is not None
        self.seen.append(coalition.honest.clone())
        return coalition.own


def watched(setup, stack):
    adversary = Watches()
    wanted = {Topic.UPLOAD: frozenset(range(setup.rounds))}
    facts = public_facts(setup, stack, adversary)
    federation = Federation(setup, stack, adversary=adversary, facts=facts, wanted=wanted)
    return adversary.seen, federation.run().events, federation.population.controlled


def test_it_sees_what_honest_clients_send_after_their_own_stages(setup) -> None:
    momentum = get("defenses", "client-momentum")(beta=0.9)
    seen, events, controlled = watched(setup, (momentum, ClipNorm(c=0.05)))
    for number, honest in enumerate(seen):
        sent = [e for e in events if e.round == number and not controlled[int(e.sender.partition(":")[2])]]
        torch.testing.assert_close(honest, torch.cat([e.payload.values for e in sent]), rtol=0, atol=0)
        assert honest.norm(dim=1).max() <= 0.05


def test_behind_encryption_it_sees_the_updates_themselves(setup) -> None:
    plain, sealed = watched(setup, ())[0], watched(setup, (CKKS(),))[0]
    torch.testing.assert_close(sealed[0], plain[0], rtol=0, atol=0)


SERVER = ClipNorm(c=0.3, enforced_by="server")


@pytest.mark.parametrize("rule", ["trimmed-mean", "geometric-median"])
def test_the_server_as_a_function_is_the_server(setup, rule) -> None:
    stack = (SERVER, get("defenses", "nnm")(f=2), get("defenses", rule)(**({"f": 2} if "trimmed" in rule else {})))
    server = Rehearsal(setup, stack, seed=0)
    rows = torch.randn(9, setup.model.layout.size, generator=torch.Generator().manual_seed(0)) * 0.1
    rows[:2] += 1.0
    function = server.function(9)
    assert function is not None
    assert len(steps_of(function)) == 3
    torch.testing.assert_close(function(rows), server(rows), rtol=1e-5, atol=1e-7)


def test_a_stage_that_is_no_pure_function_makes_the_server_none(setup) -> None:
    rule = get("defenses", "trimmed-mean")(f=2)
    assert Rehearsal(setup, (ClipValue(c=0.3, enforced_by="server"), rule), seed=0).function(9) is None
    assert Rehearsal(setup, (SERVER, get("defenses", "bucketing")(f=1), rule), seed=0).function(9) is None
    assert Rehearsal(setup, (SERVER,), seed=0).function(9) is None
    # what clients do is no part of the server's side
    alone = Rehearsal(setup, (ClipNorm(c=0.3), rule), seed=0).function(9)
    assert alone is not None
    assert len(steps_of(alone)) == 1
