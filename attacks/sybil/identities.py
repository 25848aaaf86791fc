"""Sybils: one adversary joins under many identities and sends a poisoning attack through all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.protocol.drill import Drill
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import Adversary, CoalitionView
from fedsec.randomness import derive_seed
from fedsec.randomness import generator as make_generator
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from ..poisoning.label_flip import LabelFlip
from .spreading import cautious, decorrelated, noisy

Behaviour = Literal["identical", "own", "noisy", "decorrelated", "cautious"]


@dataclass(frozen=True, kw_only=True)
class Sybil(Adversary):
    """Extra identities that amplify a poisoning attack.

    Sybils share the (poisoned) data of the controlled clients, or public data if there are none. Either each identity
    sends what the carried attack made for it (``own``), or the coalition sends one update, the mean of what
    the carried attack made for the controlled clients, in one of three ways: ``identical``; ``noisy``, with noise
    that cancels in the sum; ``decorrelated``, spread until any two of its updates have the cosine ``similarity``, in
    directions that stay with an identity over the rounds, against rules that look for Sybils. ``cautious``
    identities send their own updates as long as the sums of what they sent stay below that cosine, and noise of
    their own in the other rounds. Where they take turns, those whose turn it is not behave like honest clients.

    Judge, goal, probe, taxonomy and knowledge are those of the carried attack, and so is how its clients train. The
    parameter ``fraction`` of the carried attack is not used.
    """

    carries: Annotated[
        Adversary, Field(description="Poisoning attack that the identities carry: {name, parameters}")
    ] = LabelFlip()  # noqa: RUF009 - frozen, so sharing one is safe
    identities: Annotated[int, Field(ge=1, le=100_000, description="Identities added to the population")] = 5
    fraction: Annotated[
        float,
        Field(
            ge=0.0, lt=1.0, description="Share of the population's real clients that it controls; 0: public data only"
        ),
    ] = 0.1
    behaviour: Annotated[Behaviour, Field(description="How alike the identities' updates are")] = "identical"
    noise: Annotated[
        float, Field(gt=0.0, description="Norm of the noise of a noisy update, in norms of the shared update")
    ] = 0.1
    similarity: Annotated[
        float,
        Field(
            ge=0.0, le=1.0, description="Cosine between any two decorrelated updates, or limit of cautious identities"
        ),
    ] = 0.2
    turns: Annotated[
        int, Field(ge=1, description="Groups of identities that take turns, one group a round; 1: all attack always")
    ] = 1
    joins: Annotated[int, Field(ge=0, description="Round in which the added identities join, counted from 0")] = 0

    name: ClassVar[str] = "sybil"
    summary: ClassVar[str] = (
        "Adds identities under one adversary's control that all send the poisoning attack it carries"
    )
    family: ClassVar[str] = "sybil"
    paper: ClassVar[Paper | None] = Paper(
        title="The Limitations of Federated Learning in Sybil Settings",
        authors="Fung, Yoon, Beschastnikh",
        venue="RAID 2020",
        where="sections 3 and 7 (Sybils, perturbed Sybils, intelligent perturbation)",
    )
    # No framework has a word for Sybils: an instance puts the carried attack's identifiers before these.
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "", "", "none"),
        Taxonomy("mitre-atlas-5.6", "AML.T0021", "Establish Accounts", "partial"),
        Taxonomy("owasp-ml-2023", "", "", "none"),
    )
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="One adversary joins under many names, so that its poisoned updates outvote the others",
        position="client",
        # for carried attacks that use them; handed over only if the carried attack declares and uses them
        knowledge=frozenset({Knowledge.HONEST_UPDATES, Knowledge.AGGREGATION_RULE, Knowledge.LOCAL_TRAINING}),
        capabilities=frozenset({Capability.IDENTITIES, Capability.TRAINING_DATA_CONTROL, Capability.MODEL_CONTROL}),
        stage=Stage.TRAINING,
    )
    judge: ClassVar[str] = "availability"
    cost: ClassVar[str] = "one training per identity in the simulation; an adversary would train once"

    def __post_init__(self) -> None:
        if isinstance(self.carries, Sybil):
            raise ValueError("sybil carries a poisoning attack, not another sybil")
        if self.carries.identities or self.carries.flips_coins or self.carries.wants:
            raise ValueError(f"sybil carries a poisoning attack, which {self.carries.name} is not")
        # the class has to name a judge and identifiers; an instance has those of what it carries
        object.__setattr__(self, "judge", self.carries.judge)
        accounts = tuple(entry for entry in Sybil.taxonomy if entry.id)
        object.__setattr__(self, "taxonomy", (*self.carries.taxonomy, *accounts))
        object.__setattr__(self, "adaptive_to", self.carries.adaptive_to)

    @property
    def carried(self) -> Adversary:
        """The attack that it carries."""
        return self.carries

    def knows(self) -> frozenset[Knowledge]:
        """What the carried attack uses."""
        return self.carries.knows()

    def acts(self, round_index: int, place: int) -> bool:
        """Whether the carried attack acts and it is the identity's turn."""
        return place % self.turns == round_index % self.turns and self.carries.acts(round_index, place)

    def attends(self, round_index: int) -> tuple[int, ...]:
        """Whom the carried attack is sure to have in the cohort."""
        return self.carries.attends(round_index)

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """What the carried attack trains on."""
        return self.carries.poison(shard, facts, generator=generator)

    def poison_at(self, place: int, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """What the carried attack's client at this place trains on."""
        return self.carries.poison_at(place, shard, facts, generator=generator)

    def train(self, drill: Drill, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """How the carried attack trains."""
        return self.carries.train(drill, facts, generator=generator)

    def probe(self, test: Examples, info: DatasetInfo) -> Examples | None:
        """What the carried attack wants of the model."""
        return self.carries.probe(test, info)

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """The updates of all identities, ``(k, d)``, alike according to ``behaviour``."""
        rows = self.carries.craft(coalition, facts, generator=generator)
        if self.behaviour == "own":
            return rows
        if self.behaviour == "cautious":
            return self._cautious(rows, coalition, generator=generator)
        real = rows[~coalition.is_sybil]
        shared = (real if len(real) else rows).mean(dim=0)
        if self.behaviour == "noisy":
            return noisy(shared, count=len(rows), noise=self.noise, generator=generator)
        if self.behaviour == "decorrelated":
            directions = self._directions(coalition, size=shared.numel(), generator=generator).to(shared.device)
            return decorrelated(shared, directions=directions, similarity=self.similarity)
        return shared.expand_as(rows).clone()

    def goal(self) -> Mapping[str, int]:
        """The goal of the carried attack."""
        return self.carries.goal()

    def _cautious(self, rows: Tensor, coalition: CoalitionView, *, generator: torch.Generator) -> Tensor:
        """See `cautious`; counts the rounds, and those in which they attacked, in the coalition's state."""
        directions = self._directions(coalition, size=rows.shape[1], generator=generator).to(rows.device)
        state, before = coalition.state, remembered(coalition, like=rows)
        sent, attacks = cautious(rows, before, directions=directions, similarity=self.similarity)
        state["sent"][[state["senders"].tolist().index(client) for client in coalition.clients]] += sent
        for name, add in (("rounds", True), ("rounds attacked", attacks)):
            state[name] = state.get(name, torch.zeros(1, dtype=torch.int64)) + int(add)
        return sent

    @staticmethod
    def _directions(coalition: CoalitionView, *, size: int, generator: torch.Generator) -> Tensor:
        """One fixed random direction per identity: derived from its number and a seed kept in the state."""
        if "directions seed" not in coalition.state:
            coalition.state["directions seed"] = torch.randint(1 << 62, (1,), generator=generator)
        seed = int(coalition.state["directions seed"])
        draws = [
            torch.randn(size, generator=make_generator(derive_seed(seed, "sybil", client)))
            for client in coalition.clients
        ]
        return torch.stack(draws)


def remembered(coalition: CoalitionView, *, like: Tensor) -> Tensor:
    """Sums of what each identity of the round sent before, ``(k, d)``; ``state["senders"]`` names the rows kept."""
    state = coalition.state
    known = state.setdefault("senders", torch.empty(0, dtype=torch.int64))
    sent = state.setdefault("sent", like.new_zeros(0, like.shape[1]))
    fresh = [client for client in coalition.clients if client not in set(known.tolist())]
    if fresh:
        state["senders"] = known = torch.cat([known, torch.tensor(fresh)])
        state["sent"] = sent = torch.cat([sent, sent.new_zeros(len(fresh), sent.shape[1])])
    place = {client: row for row, client in enumerate(known.tolist())}
    return sent[[place[client] for client in coalition.clients]]
