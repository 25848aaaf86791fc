"""Backdoors by the model: controlled clients train as they like and choose how much of it they send.

What is planted is another plugin's affair (`DataBackdoor`); a plugin here says how it is trained. All of them send
their own updates times a factor, cut to a length where one is given, so that two of them can be compared at equal norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsec.data.examples import DatasetInfo, Examples
from fedsec.federation.training import LocalTraining
from fedsec.protocol.drill import Drill
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.parties import CoalitionView
from fedsec.threat import Paper, Taxonomy, ThreatModel

from .bounding import replacement_factor, within
from .data import BadNets, DataBackdoor
from .schedule import Scheduled
from .texts import MODEL_BACKDOOR, model_threat

BAGDASARYAN = Paper(
    title="How To Backdoor Federated Learning",
    authors="Bagdasaryan, Veit, Hua, Estrin, Shmatikov",
    venue="AISTATS 2020",
    where="section 3.3, equation 3 (model replacement)",
)


@dataclass(frozen=True, kw_only=True)
class ModelBackdoor(Scheduled):
    """Trains a planted backdoor with hyper-parameters of its own and sends the scaled update.

    Schedule and share of clients are those of this attack; the planted one must not state others.
    """

    plants: Annotated[
        DataBackdoor, Field(description="Backdoor in its data that its clients train in: {name, parameters}")
    ] = BadNets()  # noqa: RUF009 - frozen, so sharing one is safe
    epochs: Annotated[
        int | None, Field(ge=1, description="Passes over the poisoned data; empty: as many as honest clients make")
    ] = None
    learning_rate: Annotated[
        float | None, Field(gt=0.0, description="Learning rate of its own; empty: that of honest clients")
    ] = None
    boost: Annotated[
        float | None,
        Field(
            gt=0.0,
            description="Factor on its updates; empty: n / (server rate x attackers), which replaces the global model",
        ),
    ] = None
    bound: Annotated[
        float | None,
        Field(gt=0.0, description="Largest L2 norm of an update that it sends, so that it passes a check; empty: none"),
    ] = None

    family: ClassVar[str] = "backdoor"
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = MODEL_BACKDOOR
    judge: ClassVar[str] = "backdoor"

    def __post_init__(self) -> None:
        """Refuse a planted backdoor with a schedule of its own: it would not be kept."""
        plain = {field.name: field.default for field in dataclasses.fields(Scheduled)} | {"honest_clients": False}
        stated = [name for name, value in plain.items() if getattr(self.plants, name) != value]
        if stated:
            raise ValueError(
                f"{', '.join(stated)} of the planted {self.plants.name} would not be kept: state it for {self.name}"
            )

    def poison(self, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """What the planted backdoor makes of the data of the first client."""
        return self.plants.poison(shard, facts, generator=generator)

    def poison_at(self, place: int, shard: Examples, facts: PublicFacts, *, generator: torch.Generator) -> Examples:
        """What the planted backdoor makes of a client's data."""
        return self.plants.poison_at(place, shard, facts, generator=generator)

    def probe(self, test: Examples, info: DatasetInfo) -> Examples | None:
        """The planted backdoor's probe."""
        return self.plants.probe(test, info)

    def goal(self) -> Mapping[str, int]:
        """The planted backdoor's goal."""
        return self.plants.goal()

    def training(self, honest: LocalTraining) -> LocalTraining:
        """The hyper-parameters that it trains with."""
        return dataclasses.replace(
            honest,
            epochs=self.epochs or honest.epochs,
            learning_rate=self.learning_rate or honest.learning_rate,
        )

    def train(self, drill: Drill, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Updates of training on the poisoned data, ``(k, d)``."""
        return drill.train(local=self.training(drill.local))

    def craft(self, coalition: CoalitionView, facts: PublicFacts, *, generator: torch.Generator) -> Tensor:
        """Own updates times ``boost``, none longer than ``bound``, ``(k, d)``: train and scale."""
        factor = self.boost
        if factor is None:
            factor = replacement_factor(coalition.weights, cohort=coalition.expected_cohort, rate=facts.server_rate)
        sent = coalition.own * factor
        return sent if self.bound is None else within(sent, torch.tensor(self.bound, device=sent.device))


@dataclass(frozen=True, kw_only=True)
class ModelReplacement(ModelBackdoor):
    """Model replacement: one attacker's update is scaled up until the server's step ends at the attacker's model.

    ``L = G + (n / eta) (X - G)`` for ``n`` aggregated updates and the server rate ``eta``, shared by the attackers of
    the round; by examples, others are taken to hold as many as the attackers on average (`replacement_factor`).
    """

    name: ClassVar[str] = "model-replacement"
    summary: ClassVar[str] = "Scales a backdoored update up until the average is the attacker's model"
    paper: ClassVar[Paper | None] = BAGDASARYAN
    threat: ClassVar[ThreatModel] = model_threat(
        "A participant sends an update so large that the shared model becomes its own, backdoor included"
    )
    cost: ClassVar[str] = "the attacker's own training"
