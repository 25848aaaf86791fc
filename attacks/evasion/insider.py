"""Evasion by a participant: inputs crafted on what one client holds, read by the model that all of them made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsec.federation.cohort import CohortTrainer
from fedsec.federation.setup import whole
from fedsec.models.flat import FlatModel
from fedsec.models.source import ModelSource
from fedsec.protocol.events import Topic
from fedsec.protocol.evidence import AdversarialInputs
from fedsec.protocol.facts import PublicFacts
from fedsec.protocol.outcome import NotApplicable
from fedsec.protocol.view import View, coalition_of
from fedsec.threat import Capability, Knowledge, Paper, Stage, Taxonomy, ThreatModel

from .base import Bounds, Evasion, NormField
from .gradient_ascent import Passes, pgd
from .momentum import momentum

_WITHIN = 20
_SURROGATE_EPOCHS = 20


@dataclass(frozen=True, kw_only=True)
class InsiderTransfer(Evasion):
    """Craft on a substitute of the final model that one client has, and hope that the final model is misled too.

    The client has its own examples, the initial model and every global model that it was sent. The last of those at
    least `age` rounds before the end is looked for, up to 20 rounds further back where it did not take part. What it
    trains itself it trains as it likes, with the public local training but without any stage of the stack.
    """

    name: ClassVar[str] = "insider-transfer"
    summary: ClassVar[str] = (
        "A participant crafts inputs on a past or own model, or on one trained from its data, to mislead the final one"
    )
    paper: ClassVar[Paper | None] = Paper(
        title="Boosting Adversarial Attacks with Momentum",
        authors="Dong, Liao, Pang, Su, Zhu, Hu, Li",
        venue="CVPR 2018",
        where="algorithm 1; the substitutes are those of a federation's client",
    )
    taxonomy: ClassVar[tuple[Taxonomy, ...]] = (
        Taxonomy("nist-ai-100-2e2025", "NISTAML.025", "Black-box Evasion", "partial"),
        Taxonomy("mitre-atlas-5.6", "AML.T0015", "Evade AI Model", "exact"),
        Taxonomy("mitre-atlas-5.6", "AML.T0043.002", "Black-Box Transfer", "exact"),
        Taxonomy("owasp-ml-2023", "ML01", "Input Manipulation Attack", "exact"),
    )
    cost: ClassVar[str] = "one forward and one backward pass per input and step; local and surrogate train a model"
    threat: ClassVar[ThreatModel] = ThreatModel(
        story="A participant alters inputs with what it holds from the training, and the final model misreads them",
        position="client:0",
        knowledge=frozenset({Knowledge.TEST_INPUTS, Knowledge.OWN_DATA, Knowledge.LOCAL_TRAINING}),
        capabilities=frozenset({Capability.OBSERVE_UPDATES, Capability.TESTING_DATA_CONTROL}),
        stage=Stage.DEPLOYMENT,
    )
    wants: ClassVar[tuple[Topic, ...]] = (Topic.BROADCAST, Topic.RELEASE)
    also_sees: ClassVar[tuple[Topic, ...]] = (Topic.RELEASE,)

    source: Annotated[
        Literal["released", "local", "past", "surrogate"],
        Field(
            description="what is attacked in place of the final model: that itself (released), the client's own model "
            "of the last round (local), a global model of earlier (past), or one trained on its data alone (surrogate)"
        ),
    ] = "local"
    age: Annotated[
        int, Field(ge=1, description="rounds between a past or local model's start and the final model, at least")
    ] = 1
    epochs: Annotated[
        int | None,
        Field(ge=1, description="passes over its own data; null for the protocol's (local) or 20 (surrogate)"),
    ] = None
    architecture: Annotated[
        ModelSource | None,
        Field(description="of a surrogate, {name, parameters}; null for the federation's own, from the initial model"),
    ] = None
    method: Annotated[
        Literal["pgd", "momentum"], Field(description="how inputs are crafted, to the last step whatever happens")
    ] = "momentum"
    steps: Annotated[int, Field(ge=1, description="gradient steps per input")] = 20
    norm: NormField = "linf"

    def knows(self) -> frozenset[Knowledge]:
        """Its data and how clients train only where it trains."""
        trains = self.source in ("local", "surrogate")
        return self.threat.knowledge if trains else frozenset({Knowledge.TEST_INPUTS})

    def rounds(self, total: int) -> tuple[int, ...]:
        """The last round, and those in which the model that is looked for may have been sent."""
        last = max(total - self.age, 0)
        looked = range(max(last - _WITHIN, 0), last + 1) if self.source in ("local", "past") else range(0)
        return tuple(sorted({*(number for number in looked if number < total), total - 1}))

    def run(self, view: View, facts: PublicFacts, *, generator: torch.Generator) -> AdversarialInputs:
        """See `Attack.run`.

        Raises:
            NotApplicable: as of `Evasion`, or the position is no client, holds no example, or was sent no such model.
        """
        model, vector = self.substitute(view, facts, generator)
        return self.crafted(model.instance(vector), facts, vector, generator)

    def substitute(self, view: View, facts: PublicFacts, generator: torch.Generator) -> tuple[FlatModel, Tensor]:
        """The model on which inputs are crafted: its architecture and its parameters ``(d,)``.

        Args:
            view: models that the client was sent, and the released one.
            facts: its own data and how clients train.
            generator: orders its batches, and draws where another architecture starts.

        Raises:
            NotApplicable: the position is no client, holds no example, or was sent no such model.
        """
        if self.source == "released":
            models = view.of(Topic.RELEASE)
            if not models:
                raise NotApplicable("no model is released in this federation")
            return facts.model, models[-1].values
        if not any(party.startswith("client:") for party in coalition_of(view.position)):
            raise NotApplicable(f"{view.position} is no client and holds neither models of its own nor data")
        if self.source == "past":
            return facts.model, self._sent(view, facts)
        if not len(facts.own):
            raise NotApplicable(f"{view.position} holds no example to train on")
        seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        model, start = facts.model, self._sent(view, facts) if self.source == "local" else facts.initial
        if self.source == "surrogate" and self.architecture is not None:
            model = _drawn(self.architecture, facts, seed)
            start = model.vector().to(start)
        protocol = facts.local.epochs if self.source == "local" else _SURROGATE_EPOCHS
        local = replace(facts.local, epochs=protocol if self.epochs is None else self.epochs, schedule="constant")
        return model, start + CohortTrainer(model, local).train(start, [whole(facts.own)], [seed])[0]

    def _sent(self, view: View, facts: PublicFacts) -> Tensor:
        """The last global model, at least `age` rounds old, that the client was sent."""
        if self.age >= facts.rounds:
            return facts.initial
        sent = [event for event in view.of(Topic.BROADCAST) if event.round <= facts.rounds - self.age]
        if not sent:
            raise NotApplicable(
                f"{view.position} was sent no model that is {self.age} rounds old, nor in the {_WITHIN} rounds before"
            )
        return sent[-1].values

    def perturb(
        self, net: nn.Module, x: Tensor, y: Tensor, bounds: Bounds, generator: torch.Generator, passes: Passes
    ) -> Tensor:
        """See `momentum` and `pgd`; both go on where the substitute is misled already."""
        if self.method == "momentum":
            return momentum(net, x, y, eps=self.eps, steps=self.steps, norm=self.norm, bounds=bounds, passes=passes)
        return pgd(
            net,
            x,
            y,
            eps=self.eps,
            steps=self.steps,
            norm=self.norm,
            bounds=bounds,
            generator=generator,
            drop_fooled=False,
            passes=passes,
        )


def _drawn(source: ModelSource, facts: PublicFacts, seed: int) -> FlatModel:
    """An architecture with initial parameters of the attacker's own; the global generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return FlatModel.of(source.build(facts.info), task=facts.info.task, name=source.name)
